//! The bounds of what one push may bring.

use std::collections::{HashMap, HashSet};

use larder_protocol::{NarHash, api::OpenPush};

use crate::{config::Limits, error::ApiError};

/// The most references, signatures that one path may have.
const MAX_REFERENCES: usize = 20_000;
pub(crate) const MAX_SIGNATURES: usize = 32;

/// Refuses a closure that no push may have.
pub(super) fn check(request: &OpenPush, limits: &Limits) -> Result<(), ApiError> {
    let (max_nar_size, max_push_bytes) = (limits.max_nar_size.get(), limits.max_push_bytes.get());
    let max_paths = limits.max_push_paths as usize;
    if request.paths.is_empty() {
        return Err(ApiError::invalid("the closure is empty; name at least one path"));
    }
    if request.paths.len() > max_paths {
        return Err(ApiError::invalid(format!(
            "the closure has {} paths; one push takes {max_paths} (limits.max_push_paths), so push its parts",
            request.paths.len()
        )));
    }
    let mut hashes = HashSet::with_capacity(request.paths.len());
    let mut sizes: HashMap<NarHash, u64> = HashMap::new();
    for info in &request.paths {
        let refuse = |what: &str| Err(ApiError::invalid(format!("{}: {what}", info.path)));
        if !hashes.insert(info.path.hash()) {
            return refuse("it is there twice");
        }
        if info.nar_size == 0 {
            return refuse("its NAR size is 0");
        }
        if info.nar_size > max_nar_size {
            return refuse(&format!(
                "its NAR has {} bytes; this service takes {max_nar_size} (limits.max_nar_size)",
                info.nar_size
            ));
        }
        if *sizes.entry(info.nar_hash).or_insert(info.nar_size) != info.nar_size {
            return refuse("another path has the same NAR hash and another NAR size");
        }
        if info.references.len() > MAX_REFERENCES {
            return refuse("it has more than 20,000 references");
        }
        if !info.references.is_sorted_by(|a, b| a < b) {
            return refuse("its references are not sorted or not unique");
        }
        if info.signatures.len() > MAX_SIGNATURES {
            return refuse("it has more than 32 signatures");
        }
    }
    let total = request.paths.iter().fold(0u64, |total, info| total.saturating_add(info.nar_size));
    if total > max_push_bytes {
        return Err(ApiError::invalid(format!(
            "the closure's NARs have {total} bytes; one push takes {max_push_bytes} (limits.max_push_bytes)"
        )));
    }
    if let Some(root) = request.roots.iter().find(|root| !hashes.contains(&root.hash())) {
        return Err(ApiError::invalid(format!("root {root} is not in the closure")));
    }
    if let Some(path) = request.replace.iter().find(|path| !hashes.contains(&path.hash())) {
        return Err(ApiError::invalid(format!("{path}, which is to be replaced, is not in the closure")));
    }
    Ok(())
}
