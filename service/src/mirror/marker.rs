//! The file by which a mirror is known as one of a certain cache, so that nothing else is ever overwritten or emptied.

use larder_protocol::{PublicKey, SigningKey};
use serde::{Deserialize, Serialize};

use super::{MirrorError, Mirroring, listing::Listing};

/// Its name.
pub(super) const MARKER: &str = "larder-mirror.json";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// The cache's name.
    mirror_of: String,
    /// The keys that signed when it was written: a cache of the same name of another larderd has others.
    public_keys: Vec<String>,
}

fn public_keys(keys: &[SigningKey]) -> Vec<String> {
    keys.iter().map(|key| key.public_key().to_string()).collect()
}

/// Refuses what is neither empty nor a mirror of this cache.
pub(super) async fn check(mirroring: &Mirroring<'_>, listing: &Listing) -> Result<(), MirrorError> {
    let target = mirroring.target;
    let Some(found) = target.get(MARKER).await? else {
        return match listing.is_used {
            false => Ok(()),
            true => Err(target.refuse(format!(
                "is not empty, and not a mirror that larderd made (it has no {MARKER}). Name an empty folder: what is \
                 there could be removed"
            ))),
        };
    };
    let Ok(marker) = serde_json::from_slice::<Marker>(&found) else {
        return Err(target
            .refuse(format!("has a {MARKER} that cannot be read. Put it back, or name an empty folder")));
    };
    if marker.mirror_of != mirroring.name().as_str() {
        return Err(target.refuse(format!(
            "is a mirror of the cache {}, not of {}. Each cache needs a folder of its own",
            marker.mirror_of,
            mirroring.name()
        )));
    }
    let ours: Vec<String> = mirroring.known_keys.iter().map(PublicKey::to_string).collect();
    if !marker.public_keys.iter().any(|key| ours.contains(key)) {
        return Err(target.refuse(format!(
            "is a mirror of another larderd's cache {0}: this one never had any of the keys in its {MARKER}. Name an \
             empty folder; or, if it is the same cache with all keys replaced, write one of `larderd key list --cache \
             {0}` into that file",
            mirroring.name()
        )));
    }
    Ok(())
}

/// Writes it, if it does not say so already.
pub(super) async fn write(mirroring: &Mirroring<'_>) -> Result<(), MirrorError> {
    let marker = Marker { mirror_of: mirroring.name().to_string(), public_keys: public_keys(mirroring.keys) };
    let text = serde_json::to_string_pretty(&marker).unwrap_or_default();
    mirroring.target.put_changed(MARKER, format!("{text}\n").into()).await
}
