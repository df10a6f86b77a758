//! Paths: their NARs, what they refer to, and what others have signed.

use std::collections::{BTreeMap, HashMap, HashSet};

use larder_protocol::{StorePath, StorePathHash, api::CacheName, signature::fingerprint};

use super::{Counts, Outcome, VerifyError, withdraw::Verifier};
use crate::{caches, metadata::PathRow};

impl Verifier<'_> {
    /// Verifies some visible paths. Tells which of them are to be looked at again, since a push or a sweep changed
    /// something meanwhile.
    pub async fn paths(&self, rows: &[(i64, Option<PathRow>)]) -> Result<(), VerifyError> {
        let mut of_caches: BTreeMap<&CacheName, Vec<&PathRow>> = BTreeMap::new();
        for (id, row) in rows {
            let Some(row) = row else {
                self.withdraw_path(*id, format!("row {id}"), "its row cannot be read").await?;
                continue;
            };
            self.report().paths += 1;
            Counts::add(&self.service.verification.counts.paths, 1);
            if row.nar != (row.info.nar_hash, row.info.nar_size) {
                let problem = "its row names another NAR than it is served with";
                self.withdraw_path(row.id, row.info.path.absolute(), problem).await?;
                continue;
            }
            of_caches.entry(&row.cache).or_default().push(row);
        }
        for (name, rows) in of_caches {
            self.references(name, &rows).await?;
        }
        Ok(())
    }

    async fn references(&self, name: &CacheName, rows: &[&PathRow]) -> Result<(), VerifyError> {
        let cache = caches::find(self.service, name).await.ok().flatten();
        // A cache that has left the configuration is read by nobody.
        let Some(cache) = cache else { return Ok(()) };
        let wanted: HashSet<&StorePath> = rows.iter().flat_map(|row| &row.info.references).collect();
        let hashes: Vec<StorePathHash> = wanted.iter().map(|path| path.hash()).collect();
        let visible = self.service.metadata.visible_paths(&cache.names(), &hashes).await?;
        let is_here = |path: &StorePath| visible.get(&path.hash()).is_some_and(|there| there.path == *path);
        let elsewhere: HashSet<StorePath> =
            wanted.into_iter().filter(|path| !is_here(path)).cloned().collect();
        let missing = self.service.upstreams.lacking(self.service, &cache, elsewhere).await;
        let missing = missing.map_err(|_| VerifyError::Panicked)?;
        self.report().unanswered += missing.unanswered.len() as u64;
        let mut needed_by: HashMap<&StorePath, (usize, &StorePath)> = HashMap::new();
        for row in rows {
            for reference in row.info.references.iter().filter(|path| missing.absent.contains(*path)) {
                needed_by.entry(reference).or_insert((0, &row.info.path)).0 += 1;
            }
            self.signatures(&cache, row).await?;
        }
        for (reference, (count, first)) in needed_by {
            // What went in this moment took its referrers with it.
            if !self.still_refers(name, first, reference).await? {
                continue;
            }
            let problem = format!(
                "{} refers to it ({count} paths do), and neither {name} nor an upstream has it",
                first
            );
            self.find("reference", reference.absolute(), problem, Outcome::Lost);
        }
        Ok(())
    }

    async fn still_refers(
        &self,
        cache: &CacheName,
        path: &StorePath,
        reference: &StorePath,
    ) -> Result<bool, VerifyError> {
        let hashes = [path.hash(), reference.hash()];
        let visible = self.service.metadata.visible_paths(&[cache], &hashes).await?;
        Ok(visible.contains_key(&hashes[0]) && !visible.contains_key(&hashes[1]))
    }

    /// What others have signed must be signed by them, where their key is known. (What the cache itself signs it signs
    /// when it is asked.)
    async fn signatures(&self, cache: &caches::Cache, row: &PathRow) -> Result<(), VerifyError> {
        if row.info.signatures.is_empty() {
            return Ok(());
        }
        let info = &row.info;
        let text = fingerprint(&info.path, &info.nar_hash, info.nar_size, &info.references);
        let upstreams = cache.config.upstreams.iter().flat_map(|upstream| &upstream.upstream.public_keys);
        let keys: Vec<_> = cache.public_keys().into_iter().chain(upstreams.cloned()).collect();
        for signature in &info.signatures {
            let mut known = keys.iter().filter(|key| key.name() == signature.key_name()).peekable();
            if known.peek().is_some() && !known.any(|key| key.verifies(&text, signature)) {
                let problem =
                    format!("the signature by {} does not hold; readers pass over it", signature.key_name());
                self.find("signature", info.path.absolute(), problem, Outcome::Left);
            }
        }
        Ok(())
    }
}
