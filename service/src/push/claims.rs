//! The content addresses that a closure's paths claim.

use std::collections::HashMap;

use larder_protocol::{
    ContentAddress, StorePathHash,
    api::PathInfo,
    content_address::{ContentHash, Method, Misfit},
};

use crate::error::ApiError;

/// A content address that a path claims.
pub(super) enum Claim {
    /// It cannot be that of this path.
    Wrong(Misfit),
    /// Its contents must be looked at.
    Unproven,
}

/// What is claimed by content addresses that do not hold already by the path, its references and its NAR's hash.
pub(super) fn claims(paths: &[PathInfo]) -> Result<HashMap<StorePathHash, Claim>, ApiError> {
    let mut claims = HashMap::new();
    for info in paths {
        let Some(text) = &info.ca else { continue };
        let malformed = || ApiError::invalid(format!("{}: its content address is malformed", info.path));
        let address: ContentAddress = text.parse().map_err(|_| malformed())?;
        let claim = match (address.check_path(&info.path, &info.references), address.method, &address.hash) {
            (Err(misfit), ..) => Claim::Wrong(misfit),
            (Ok(()), Method::Nar, ContentHash::Sha256(hash)) if !info.references.contains(&info.path) => {
                match *hash == info.nar_hash.0 {
                    true => continue,
                    false => Claim::Wrong(Misfit::Contents),
                }
            }
            (Ok(()), ..) => Claim::Unproven,
        };
        claims.insert(info.path.hash(), claim);
    }
    Ok(claims)
}
