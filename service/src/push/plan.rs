//! What is to become of a closure's paths, by what the cache and upstreams have.

use std::collections::HashMap;

use larder_protocol::{
    StorePathHash,
    api::{Divergence, PathInfo, RefusedPath},
};

use super::upstream::UpstreamSays;
use crate::{
    caches::Cache,
    metadata::{NewDivergence, VisiblePath},
    trust::{Standing, Verdict},
};

/// What is to become of a closure's paths.
#[derive(Default)]
pub(super) struct Plan<'a> {
    pub(super) staged: Vec<&'a PathInfo>,
    pub(super) upstream: Vec<StorePathHash>,
    pub(super) divergences: Vec<NewDivergence>,
    pub(super) refused: Vec<RefusedPath>,
}

impl<'a> Plan<'a> {
    pub(super) fn diverge(&mut self, info: &PathInfo, there: &VisiblePath) {
        let told = Divergence {
            path: info.path.clone(),
            kept: there.nar_hash,
            pushed: info.nar_hash,
            upstream: None,
        };
        self.divergences.push(NewDivergence { told, kept_push: Some(there.push) });
    }

    /// Takes out what upstreams have, or have signed otherwise.
    pub(super) fn heed(&mut self, says: &UpstreamSays, visible: &HashMap<StorePathHash, VisiblePath>) {
        for info in std::mem::take(&mut self.staged) {
            let hash = info.path.hash();
            if let Some((kept, url)) = says.other.get(&hash) {
                let told = Divergence {
                    path: info.path.clone(),
                    kept: *kept,
                    pushed: info.nar_hash,
                    upstream: Some(url.clone()),
                };
                self.divergences.push(NewDivergence { told, kept_push: None });
                if !visible.contains_key(&hash) {
                    self.upstream.push(hash);
                }
            } else if says.same.contains(&hash) && !visible.contains_key(&hash) {
                self.upstream.push(hash);
            } else {
                self.staged.push(info);
            }
        }
    }
}

/// Which stands, of what the cache has and what a push brings. At commit this is decided again.
pub(super) fn verdict(brought: Standing, there: &VisiblePath, info: &PathInfo, cache: &Cache) -> Verdict {
    match (there.is(info), there.cache == cache.name().as_str()) {
        (same, true) => brought.against(there.standing, same),
        // What a cache reads through to is not its to change.
        (true, false) => Verdict::Present,
        (false, false) => Verdict::Kept,
    }
}
