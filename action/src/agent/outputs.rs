//! Which paths a job pushes: what it built so far, or what the workflow names.
//!
//! The high-water mark says whose a path is only where the store is the job's own. On a shared store another job
//! may have brought a path; so the workflow names what is pushed, and a dependency from below the mark goes
//! along only if the cache or an upstream has it already. An output that needs another one is left out.

use std::collections::{HashMap, HashSet};

use larder_protocol::{
    PublicKey, StorePath,
    api::{PathInfo, Upstream},
    signature::fingerprint,
};

use super::report::LeftOut;
use crate::{
    store::{Closure, Mark, NixStore, StoreError},
    workflow::inputs::What,
};

/// What the job built since `mark`, by now.
pub async fn built(
    store: &mut NixStore,
    mark: Mark,
    what: What,
    upstreams: &[Upstream],
) -> Result<Vec<StorePath>, StoreError> {
    let rows = match what {
        What::Built => store.built_since(mark).await?,
        What::New => {
            let mut rows = store.added_since(mark).await?;
            let keys = keys(upstreams);
            rows.retain(|row| !is_signed(row, &keys) && !row.path.name().ends_with(".drv"));
            rows
        }
    };
    Ok(rows.into_iter().map(|row| row.path).collect())
}

/// The closure of those of `roots` that the store has, and those that it has not (any more).
pub async fn closure(
    store: &mut NixStore,
    mut roots: Vec<StorePath>,
) -> Result<(Closure, Vec<LeftOut>), StoreError> {
    let mut left_out = Vec::new();
    loop {
        match store.closure(&roots).await {
            Err(StoreError::NotValid { path, .. }) if roots.contains(&path) => {
                roots.retain(|root| *root != path);
                left_out.push(LeftOut { path, reason: "it is not a valid path of the store".into() });
            }
            other => return other.map(|closure| (closure, left_out)),
        }
    }
}

/// Those paths of the closure that the job built itself, as Nix marked them: for the record of who built what. On a
/// shared store nobody can tell.
pub async fn built_of(
    closure: &Closure,
    store: &NixStore,
    mark: Mark,
    shared: bool,
) -> Result<Vec<StorePath>, StoreError> {
    if shared {
        return Ok(Vec::new());
    }
    let built: HashSet<StorePath> = store.built_since(mark).await?.into_iter().map(|row| row.path).collect();
    Ok(closure.paths.iter().map(|info| &info.path).filter(|path| built.contains(path)).cloned().collect())
}

/// The dependencies that may go along only if somebody has them: those from below the mark that no
/// upstream has signed.
pub fn strangers(closure: &Closure, above: &HashSet<StorePath>, upstreams: &[Upstream]) -> Vec<StorePath> {
    let (roots, keys): (HashSet<_>, _) = (closure.roots.iter().collect(), keys(upstreams));
    let is_stranger = |info: &&PathInfo| {
        !above.contains(&info.path) && !roots.contains(&info.path) && !is_signed(info, &keys)
    };
    closure.paths.iter().filter(is_stranger).map(|info| info.path.clone()).collect()
}

/// The roots that need none of `forbidden`, and the others, each with the first path that is in its way.
pub fn without(closure: &Closure, forbidden: &HashSet<StorePath>) -> (Vec<StorePath>, Vec<LeftOut>) {
    let references: HashMap<&StorePath, &[StorePath]> =
        closure.paths.iter().map(|info| (&info.path, info.references.as_slice())).collect();
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for root in &closure.roots {
        let (mut seen, mut open) = (HashSet::from([root]), vec![root]);
        let mut in_the_way = None;
        while let Some(path) = open.pop() {
            if forbidden.contains(path) {
                in_the_way = Some(path);
                break;
            }
            let next = references.get(path).copied().unwrap_or_default();
            open.extend(next.iter().filter(|reference| seen.insert(reference)));
        }
        match in_the_way {
            None => kept.push(root.clone()),
            Some(path) => left_out.push(LeftOut {
                path: root.clone(),
                reason: format!(
                    "it needs {path}, which was in this shared store before the job and which neither the cache \
                     nor an upstream has; name it in `paths`, or set `store: exclusive` if no other job uses the store"
                ),
            }),
        }
    }
    (kept, left_out)
}

fn keys(upstreams: &[Upstream]) -> Vec<&PublicKey> {
    upstreams.iter().flat_map(|upstream| &upstream.public_keys).collect()
}

/// Whether one of `keys` has signed the path as it is here.
fn is_signed(info: &PathInfo, keys: &[&PublicKey]) -> bool {
    let candidates: Vec<_> = info
        .signatures
        .iter()
        .flat_map(|signature| keys.iter().map(move |key| (*key, signature)))
        .filter(|(key, signature)| key.name() == signature.key_name())
        .collect();
    if candidates.is_empty() {
        return false;
    }
    let text = fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references);
    candidates.into_iter().any(|(key, signature)| key.verifies(&text, signature))
}

#[cfg(test)]
mod tests {
    use larder_protocol::{NarHash, SigningKey};

    use super::*;

    fn path(digit: char, name: &str) -> StorePath {
        format!("{}-{name}", digit.to_string().repeat(32)).parse().unwrap()
    }

    fn info(path: StorePath, references: &[&StorePath]) -> PathInfo {
        PathInfo {
            path,
            nar_hash: NarHash([7; 32]),
            nar_size: 120,
            references: references.iter().map(|path| (*path).clone()).collect(),
            deriver: None,
            ca: None,
            signatures: Vec::new(),
        }
    }

    fn sign(info: &mut PathInfo, key: &SigningKey) {
        let text = fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references);
        info.signatures.push(key.sign(&text));
    }

    #[test]
    fn on_a_shared_store_what_others_left_behind_does_not_go_along() {
        let key = SigningKey::generate("upstream-1").unwrap();
        let upstreams = [Upstream { url: "https://u.example".into(), public_keys: vec![key.public_key()] }];
        let (app, other, secret, library, libc) =
            (path('1', "app"), path('2', "other"), path('3', "secret"), path('4', "lib"), path('5', "libc"));
        let mut signed = info(libc.clone(), &[&libc]);
        sign(&mut signed, &key);
        let closure = Closure {
            paths: vec![
                signed,
                info(secret.clone(), &[&libc]),
                info(library.clone(), &[&secret, &libc]),
                info(app.clone(), &[&app, &library]),
                info(other.clone(), &[&libc]),
            ],
            roots: vec![app.clone(), other.clone()],
            built: Vec::new(),
            store_dir: "/nix/store".into(),
        };
        let above = HashSet::from([library]);
        assert_eq!(strangers(&closure, &above, &upstreams), std::slice::from_ref(&secret));

        let (kept, left_out) = without(&closure, &HashSet::from([secret.clone()]));
        assert_eq!(kept, std::slice::from_ref(&other));
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].path, app);
        assert!(left_out[0].reason.contains(&secret.to_string()));

        // If somebody has it, all may go.
        assert_eq!(without(&closure, &HashSet::new()).0, [app, other]);
    }

    #[test]
    fn a_signature_counts_only_if_it_holds() {
        let key = SigningKey::generate("upstream-1").unwrap();
        let forger = SigningKey::generate("upstream-1").unwrap();
        let public = key.public_key();
        let mut forged = info(path('1', "a"), &[]);
        sign(&mut forged, &forger);
        assert!(!is_signed(&forged, &[&public]));
        sign(&mut forged, &key);
        assert!(is_signed(&forged, &[&public]) && !is_signed(&forged, &[]));
    }
}
