//! What is there.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use larder_protocol::StorePathHash;
use object_store::path::Path as Key;

use super::{
    MirrorError,
    marker::MARKER,
    target::{CACHE_INFO, NARS, Target},
};
use crate::cache::NarFile;

/// What a mirror's file is. All others are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Info,
    Narinfo(StorePathHash),
    Nar(NarFile),
}

impl Named {
    /// `None` where a mirror has no such file.
    pub fn of(name: &str) -> Option<Self> {
        if let Some(file) = name.strip_prefix("nar/") {
            return NarFile::parse(file).map(Self::Nar);
        }
        match name.strip_suffix(".narinfo") {
            Some(digits) => StorePathHash::from_digits(digits.as_bytes()).map(Self::Narinfo),
            None => [CACHE_INFO, MARKER].contains(&name).then_some(Self::Info),
        }
    }
}

/// What is there when a mirroring begins.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The paths.
    pub narinfos: HashSet<StorePathHash>,
    /// The NARs, and how long their files are.
    pub nars: HashMap<NarFile, u64>,
    /// Whether there is anything at all.
    pub is_used: bool,
}

impl Listing {
    /// Looks at what a mirror may have, and at nothing below other folders.
    pub async fn read(target: &Target) -> Result<Self, MirrorError> {
        let mut listing = Self::default();
        let top = target.store().list_with_delimiter(None).await;
        let top = top.map_err(|source| target.failed("", source))?;
        listing.is_used = !top.objects.is_empty() || !top.common_prefixes.is_empty();
        for found in top.objects {
            if let Some(Named::Narinfo(hash)) = Named::of(found.location.as_ref()) {
                listing.narinfos.insert(hash);
            }
        }
        let mut nars = target.store().list(Some(&Key::from(NARS)));
        while let Some(found) = nars.try_next().await.map_err(|source| target.failed(NARS, source))? {
            if let Some(Named::Nar(file)) = Named::of(found.location.as_ref()) {
                listing.nars.insert(file, found.size);
            }
        }
        Ok(listing)
    }

    /// Whether a NAR is there whole.
    pub fn has(&self, file: &NarFile, size: u64) -> bool {
        self.nars.get(file) == Some(&size)
    }
}

/// The file of a path's narinfo.
pub(super) fn narinfo_file(hash: &StorePathHash) -> String {
    format!("{hash}.narinfo")
}

/// The file of a NAR, as narinfos name it.
pub(super) fn nar_file(file: &NarFile) -> String {
    format!("{NARS}/{file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_mirror_has_is_taken_for_its_own() {
        let digits = "0c5b8vw40dy178xlpddw65q9gf1h2186";
        let nar = format!("nar/{}-{digits}.nar.zst", "0".repeat(52));
        for its_own in ["nix-cache-info", &format!("{digits}.narinfo"), &nar] {
            assert!(Named::of(its_own).is_some(), "{its_own}");
        }
        let others = [
            "index.html".to_owned(),
            format!("{digits}.ls"),
            format!("{digits}x.narinfo"),
            format!("nar/{digits}.narinfo"),
            format!("nar/{}.nar.xz", "0".repeat(52)),
            nar.replace("nar/", "nar/below/"),
            nar.replace("nar/", ""),
        ];
        for other in others {
            assert!(Named::of(&other).is_none(), "{other}");
        }
    }
}
