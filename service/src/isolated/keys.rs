//! The keys of a pull request's cache: one for each that its parent signs with, so that they rotate together. They
//! are derived and stored nowhere: whoever has the parent's keys (every replica has) makes the same ones, and whoever
//! steals the database has none.

use larder_protocol::{SigningKey, api::CacheName, signature::InvalidKey};

use crate::keys::ActiveKeys;

pub(super) fn derive(
    parents: &ActiveKeys,
    name: &CacheName,
    salt: &[u8; 32],
) -> Result<ActiveKeys, InvalidKey> {
    let (_, pull_request) = name.isolation().unwrap_or_default();
    let derive = |parent: &SigningKey| parent.derive(&format!("{}~{pull_request}", parent.name()), salt);
    let keys = parents.keys.iter().map(derive).collect::<Result<_, _>>()?;
    Ok(ActiveKeys { keys, generation: parents.generation })
}
