//! Rows of pushes and of what they stage.

use std::collections::{HashMap, HashSet};

use larder_protocol::{
    ContentAddress, NarHash, StorePath, StorePathHash,
    api::{CacheName, PathInfo, PushId},
};
use sqlx::{QueryBuilder, Row as _, Sqlite, Transaction};

use super::{
    BATCH, Metadata, MetadataError, Namespace, ObjectId, audit, blob,
    claims::{claim, list},
    divergences::{self, NewDivergence},
    isolated::count_paths,
    number,
    paths::{join, path_info, path_of},
    records::note_record,
    runs::{PushingRun, note_committed, note_run},
    sweeping::hold_open,
};
use crate::{
    audit::{Entry, Event, Who},
    config::OpenPushes,
    trust::Rank,
};

/// A push that is to be opened.
#[derive(Debug)]
pub struct NewPush<'a> {
    /// Its name.
    pub name: PushId,
    /// Where it goes.
    pub cache: &'a CacheName,
    /// Whether that is a cache that everybody may read.
    pub public: bool,
    /// Where it is a pull request's: its row, and how many paths may be staged in it.
    pub isolated: Option<(i64, u64)>,
    /// Whose it is.
    pub owner: &'a str,
    /// The verified claims, as JSON.
    pub provenance: &'a str,
    /// Who opens it, for the audit log.
    pub who: &'a Who,
    /// The run that it is of, where a job pushes.
    pub run: Option<PushingRun>,
    /// By what rank its paths stand.
    pub rank: Rank,
    /// What it brings.
    pub staged: Vec<Staged<'a>>,
    /// Whether it is told nothing of what the cache has.
    pub blind: bool,
    /// Visible paths with their rows, which must stay until the push ends.
    pub leased: Vec<(i64, StorePathHash)>,
    /// What is to be kept.
    pub roots: Vec<StorePathHash>,
    /// What its job says that it built.
    pub built: HashSet<StorePathHash>,
    /// What it offers with another content than what stands, and is not taken.
    pub divergences: Vec<NewDivergence>,
    /// How many of its paths an upstream should have been asked about, and did not answer.
    pub unasked: u64,
}

/// A path that a push brings: the cache lacks it, or it takes the place of what the cache has.
#[derive(Debug)]
pub struct Staged<'a> {
    /// What is said of it.
    pub info: &'a PathInfo,
    /// The row of its NAR, where that is stored already and nothing of it is left to be checked.
    pub nar: Option<i64>,
    /// Whether an admin says that it is to stand, whatever the ranks.
    pub ordered: bool,
    /// Whether its contents must be checked against its content address.
    pub unproven: bool,
}

/// A push that exists for its owner.
#[derive(Debug, Clone, Copy)]
pub struct FoundPush {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: PushId,
    /// Whether it is committed.
    pub committed: bool,
    /// How many paths it brings, if that is all that it is told: it is told nothing of what the cache has.
    pub blind: Option<u64>,
}

impl FoundPush {
    /// Whether it is told nothing of what the cache has.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }
}

/// How opening a push ended.
#[derive(Debug)]
pub enum OpenOutcome {
    /// It is open, or committed already.
    Opened(FoundPush),
    /// So many are open, and no more may be.
    TooMany(FullOf),
    /// The pull request's cache may take no more paths.
    CacheFull,
    /// The pull request's cache is being removed.
    CacheGone,
}

/// Of what there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullOf {
    /// Open pushes of this identity.
    Identity,
    /// Open pushes in this cache.
    Cache,
    /// Open pushes in all.
    All,
}

/// An open push that no request has touched for so long, in seconds, is abandoned: it counts no more, so that clients
/// that died keep nobody away. As long as a session lives.
const ABANDONED_AFTER: i64 = 15 * 60;

/// Why a push cannot be committed yet.
#[derive(Debug)]
pub enum CommitOutcome {
    /// It is committed, now or before.
    Committed,
    /// So many of its paths have no verified NAR.
    Unverified(u64),
    /// It is not there any more.
    Gone,
}

impl Metadata {
    /// Opens a push: stages its paths, leases what is there. Commits it in the same moment if nothing is staged. If
    /// too many are open, nothing is done.
    ///
    /// # Errors
    /// [`MetadataError::is_gone`] if a path that was to be leased, or a NAR that is to be had again, is there no more.
    pub async fn open_push(
        &self,
        push: &NewPush<'_>,
        limits: OpenPushes,
        now: i64,
    ) -> Result<OpenOutcome, MetadataError> {
        let committed = push.staged.is_empty();
        let blind = push.blind.then_some(push.staged.len() as u64);
        let mut transaction = self.write().await?;
        if !committed && let Some(full) = full(&mut transaction, push, limits, now).await? {
            return Ok(OpenOutcome::TooMany(full));
        }
        if let Some((cache, max)) = push.isolated {
            match count_paths(&mut transaction, cache, push.staged.len() as u64, max).await {
                Ok(true) => {}
                Ok(false) => return Ok(OpenOutcome::CacheFull),
                Err(MetadataError::Gone) => return Ok(OpenOutcome::CacheGone),
                Err(error) => return Err(error),
            }
        }
        let run = match &push.run {
            Some(run) => Some(note_run(&mut transaction, push.cache, run).await?),
            None => None,
        };
        // Rows that follow name it. Until the last batch is in, nobody knows its name.
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO pushes (name, cache, owner, provenance, blind, state, opened_at, active_at, committed_at, run, unasked)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(&push.name.0[..])
        .bind(push.cache.as_str())
        .bind(push.owner)
        .bind(push.provenance)
        .bind(blind.map(|paths| i64::try_from(paths).unwrap_or(i64::MAX)))
        .bind(if committed { "committed" } else { "open" })
        .bind(now)
        .bind(now)
        .bind(committed.then_some(now))
        .bind(run)
        .bind(i64::try_from(push.unasked).unwrap_or(i64::MAX))
        .fetch_one(&mut *transaction)
        .await?;
        // What a pull request brings must not fill the filter by which others are answered; what a private cache gets
        // must not show there.
        if push.public && push.isolated.is_none() {
            let hashes: Vec<StorePathHash> =
                push.staged.iter().map(|staged| staged.info.path.hash()).collect();
            self.may_soon_have(&hashes);
        }
        for batch in push.staged.chunks(BATCH) {
            let mut insert = QueryBuilder::<Sqlite>::new(
                "INSERT INTO paths (cache, hash, name, push, nar_hash, nar_size, nar, refs, deriver, ca, signatures,
                     built, rank, ordered, unproven) ",
            );
            insert.push_values(batch, |mut row, Staged { info, nar, ordered, unproven }| {
                row.push_bind(push.cache.as_str())
                    .push_bind(info.path.hash().0.to_vec())
                    .push_bind(info.path.name())
                    .push_bind(id)
                    .push_bind(&info.nar_hash.0[..])
                    .push_bind(i64::try_from(info.nar_size).unwrap_or(i64::MAX))
                    // It may have gone since it was looked for, and its number to another.
                    .push("(SELECT n.id FROM nars n WHERE n.complete = 1 AND n.id = ")
                    .push_bind_unseparated(*nar)
                    .push_unseparated(" AND n.hash = ")
                    .push_bind_unseparated(&info.nar_hash.0[..])
                    .push_unseparated(")")
                    .push_bind(join(&info.references))
                    .push_bind(info.deriver.as_ref().map(StorePath::to_string))
                    .push_bind(info.ca.as_deref())
                    .push_bind(join(&info.signatures))
                    .push_bind(push.built.contains(&info.path.hash()))
                    .push_bind(i64::from(push.rank))
                    .push_bind(*ordered)
                    .push_bind(*unproven);
            });
            insert.build().persistent(false).execute(&mut *transaction).await?;
            transaction.commit().await?;
            transaction = self.write().await?;
        }
        let reused: i64 = sqlx::query_scalar("SELECT count(*) FROM paths WHERE push = ? AND nar IS NOT NULL")
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
        if number(reused)? < push.staged.iter().filter(|staged| staged.nar.is_some()).count() as u64 {
            return Err(MetadataError::Gone);
        }
        for batch in push.leased.chunks(BATCH) {
            // A push that ends in this moment needs no leases: what it relies on is claimed.
            lease(&mut transaction, id, batch, !committed).await?;
            if !committed {
                transaction.commit().await?;
                transaction = self.write().await?;
            }
        }
        for batch in push.roots.chunks(BATCH) {
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO push_roots (push, hash) ");
            insert.push_values(batch, |mut row, hash| {
                row.push_bind(id).push_bind(&hash.0[..]);
            });
            insert.build().persistent(false).execute(&mut *transaction).await?;
        }
        divergences::note(&mut transaction, id, &push.divergences, now).await?;
        if committed {
            note_committed(&mut transaction, id, now).await?;
            let entry = committed_entry(&mut transaction, id, push.who).await?;
            audit::record(&mut transaction, &entry, now).await?;
        }
        transaction.commit().await?;
        Ok(OpenOutcome::Opened(FoundPush { id, name: push.name, committed, blind }))
    }

    /// The push of that name, if it is the owner's and goes to that cache. Notes that it is active.
    pub async fn find_push(
        &self,
        cache: &CacheName,
        name: &PushId,
        owner: &str,
        now: i64,
    ) -> Result<Option<FoundPush>, MetadataError> {
        let row = sqlx::query(
            "SELECT id, state, active_at, blind FROM pushes
                 WHERE name = ? AND cache = ? AND owner = ? AND abandoned_at IS NULL",
        )
        .bind(&name.0[..])
        .bind(cache.as_str())
        .bind(owner)
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: i64 = row.try_get(0)?;
        if row.try_get::<i64, _>(2)? + 60 < now {
            let mut transaction = self.write().await?;
            sqlx::query("UPDATE pushes SET active_at = ? WHERE id = ?")
                .bind(now)
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
        }
        let committed = row.try_get::<&str, _>(1)? == "committed";
        let blind = row.try_get::<Option<i64>, _>(3)?.map(number).transpose()?;
        Ok(Some(FoundPush { id, name: *name, committed, blind }))
    }

    /// Gives an open push up: nobody can add to it any more, and the next sweep takes what it staged.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn give_up_push(&self, name: &PushId, now: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        sqlx::query("UPDATE pushes SET abandoned_at = ? WHERE name = ? AND state = 'open'")
            .bind(now)
            .bind(&name.0[..])
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The NARs of the push's staged paths with their sizes, and whether each is verified.
    pub async fn staged_nars(
        &self,
        push: i64,
        hashes: &[NarHash],
    ) -> Result<HashMap<NarHash, (u64, bool)>, MetadataError> {
        let mut staged = HashMap::new();
        for batch in hashes.chunks(BATCH) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "SELECT nar_hash, nar_size, min(nar IS NOT NULL AND unproven = 0) FROM paths WHERE push = ",
            );
            query.push_bind(push).push(" AND nar_hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(") GROUP BY nar_hash, nar_size");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                let nar = (number(row.try_get(1)?)?, row.try_get(2)?);
                staged.insert(NarHash(blob(row.try_get(0)?)?), nar);
            }
        }
        Ok(staged)
    }

    /// The push's staged paths whose contents must be checked against their content address, by their NAR.
    pub async fn unproven_addresses(
        &self,
        push: i64,
        hashes: &[NarHash],
    ) -> Result<HashMap<NarHash, Vec<(StorePath, ContentAddress)>>, MetadataError> {
        let mut unproven: HashMap<_, Vec<_>> = HashMap::new();
        for batch in hashes.chunks(BATCH) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "SELECT nar_hash, hash, name, ca FROM paths WHERE unproven = 1 AND ca IS NOT NULL AND push = ",
            );
            query.push_bind(push).push(" AND nar_hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(")");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                let address = row.try_get::<&str, _>("ca")?.parse();
                let address =
                    address.map_err(|_| MetadataError::Damaged("a path's content address cannot be read"))?;
                let nar = NarHash(blob(row.try_get("nar_hash")?)?);
                unproven.entry(nar).or_default().push((path_of(&row)?, address));
            }
        }
        Ok(unproven)
    }

    /// The references of the push's staged paths that are neither staged with them nor leased.
    pub async fn outside_references(&self, push: i64) -> Result<HashSet<StorePath>, MetadataError> {
        let known: HashSet<StorePath> = sqlx::query(
            "SELECT hash, name FROM paths WHERE push = ?1
             UNION SELECT p.hash, p.name FROM leases l JOIN paths p ON p.id = l.path WHERE l.push = ?1",
        )
        .bind(push)
        .fetch_all(self.reader())
        .await?
        .iter()
        .map(path_of)
        .collect::<Result<_, MetadataError>>()?;
        let mut outside = HashSet::new();
        let mut after = 0i64;
        loop {
            let rows =
                sqlx::query("SELECT id, refs FROM paths WHERE push = ? AND id > ? ORDER BY id LIMIT 1000")
                    .bind(push)
                    .bind(after)
                    .fetch_all(self.reader())
                    .await?;
            for row in &rows {
                after = row.try_get(0)?;
                for reference in row.try_get::<&str, _>(1)?.split_ascii_whitespace() {
                    let reference: StorePath = reference
                        .parse()
                        .map_err(|_| MetadataError::Damaged("a path's reference cannot be read"))?;
                    if !known.contains(&reference) {
                        outside.insert(reference);
                    }
                }
            }
            if rows.len() < BATCH {
                return Ok(outside);
            }
        }
    }

    /// The hashes of the paths that a push stages.
    pub async fn staged_paths(&self, push: i64) -> Result<Vec<StorePathHash>, MetadataError> {
        let rows = sqlx::query("SELECT hash FROM paths WHERE push = ?").bind(push).fetch_all(self.reader());
        rows.await?.iter().map(|row| Ok(StorePathHash(blob(row.try_get(0)?)?))).collect()
    }

    /// Takes staged paths out of an open push again.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if the push is not open any more.
    pub(crate) async fn unstage(
        &self,
        push: i64,
        hashes: &HashSet<StorePathHash>,
    ) -> Result<(), MetadataError> {
        let hashes: Vec<&StorePathHash> = hashes.iter().collect();
        for batch in hashes.chunks(BATCH) {
            let mut transaction = self.write().await?;
            hold_open(&mut transaction, push).await?;
            let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM paths WHERE push = ");
            delete.push_bind(push).push(" AND hash IN (");
            let mut list = delete.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            delete.push(")");
            delete.build().persistent(false).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Leases visible paths by their rows, so that they stay until the push ends.
    ///
    /// # Errors
    /// [`MetadataError::is_gone`] if one of them is there no more.
    pub async fn lease(&self, push: i64, paths: &[(i64, StorePathHash)]) -> Result<(), MetadataError> {
        for batch in paths.chunks(BATCH) {
            let mut transaction = self.write().await?;
            hold_open(&mut transaction, push).await?;
            lease(&mut transaction, push, batch, true).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// How many of an open push's paths have no verified NAR yet. Where it is told nothing of what the cache has, only
    /// what it has sent itself counts.
    pub async fn unverified(&self, push: i64, namespaces: &[Namespace]) -> Result<u64, MetadataError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT count(*) FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'open'
             WHERE (p.unproven = 1 OR p.nar IS NULL AND (u.blind IS NOT NULL OR NOT EXISTS (
                 SELECT 1 FROM nars n WHERE n.complete = 1 AND n.hash = p.nar_hash AND n.namespace IN (",
        );
        list(&mut query, &namespaces.iter().map(|namespace| namespace.0).collect::<Vec<_>>());
        query.push(")))) AND p.push = ").push_bind(push);
        let unverified: i64 = query.build_query_scalar().persistent(false).fetch_one(self.reader()).await?;
        number(unverified)
    }

    /// Makes all of a push's paths visible at one moment, but those for which the cache has one that stands against
    /// them. `record` is the object that tells what it publishes, and how long that is.
    pub async fn commit_push(
        &self,
        push: i64,
        namespaces: &[Namespace],
        record: Option<(ObjectId, u64)>,
        now: i64,
        who: &Who,
    ) -> Result<CommitOutcome, MetadataError> {
        let mut transaction = self.write().await?;
        let find = "SELECT state FROM pushes WHERE id = ? AND abandoned_at IS NULL";
        let state: Option<String> =
            sqlx::query_scalar(find).bind(push).fetch_optional(&mut *transaction).await?;
        match state.as_deref() {
            Some("open") => {}
            Some(_) => return Ok(CommitOutcome::Committed),
            None => return Ok(CommitOutcome::Gone),
        }
        // Another push may have verified the same NAR since. One that may not know of that sends it itself.
        for namespace in namespaces {
            sqlx::query(
                "UPDATE paths SET nar = (SELECT n.id FROM nars n WHERE n.complete = 1 AND n.namespace = ?
                     AND n.hash = nar_hash AND n.size = nar_size)
                 WHERE push = ? AND nar IS NULL AND (SELECT blind FROM pushes WHERE id = push) IS NULL",
            )
            .bind(namespace.0)
            .bind(push)
            .execute(&mut *transaction)
            .await?;
        }
        let unverified: i64 =
            sqlx::query_scalar("SELECT count(*) FROM paths WHERE push = ? AND (nar IS NULL OR unproven = 1)")
                .bind(push)
                .fetch_one(&mut *transaction)
                .await?;
        if unverified > 0 {
            return Ok(CommitOutcome::Unverified(number(unverified)?));
        }
        divergences::settle(&mut transaction, push, now).await?;
        // What stays in their stead is relied on as what was there when the push was opened.
        let stand: Vec<i64> = sqlx::query_scalar(
            "SELECT q.id FROM paths p JOIN paths q ON q.cache = p.cache AND q.hash = p.hash AND q.hidden = 0 AND q.push <> p.push
             JOIN pushes u ON u.id = q.push AND u.state = 'committed' WHERE p.push = ? AND p.hidden = 1",
        )
        .bind(push)
        .fetch_all(&mut *transaction)
        .await?;
        claim(&mut transaction, &stand).await?;
        note_committed(&mut transaction, push, now).await?;
        note_record(&mut transaction, push, record).await?;
        sqlx::query("UPDATE pushes SET state = 'committed', committed_at = ?, active_at = ? WHERE id = ?")
            .bind(now)
            .bind(now)
            .bind(push)
            .execute(&mut *transaction)
            .await?;
        let entry = committed_entry(&mut transaction, push, who).await?;
        audit::record(&mut transaction, &entry, now).await?;
        transaction.commit().await?;
        Ok(CommitOutcome::Committed)
    }

    /// What a committed push made visible.
    pub async fn published_by(&self, push: i64) -> Result<Vec<PathInfo>, MetadataError> {
        let rows = sqlx::query(
            "SELECT hash, name, nar_hash, nar_size, refs, deriver, ca, signatures FROM paths
             WHERE push = ? AND hidden = 0",
        )
        .bind(push)
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(path_info).collect()
    }
}

/// Whether so many pushes are open that no more may be.
async fn full(
    transaction: &mut Transaction<'static, Sqlite>,
    push: &NewPush<'_>,
    limits: OpenPushes,
    now: i64,
) -> Result<Option<FullOf>, MetadataError> {
    let row = sqlx::query(
        "SELECT count(*), count(CASE WHEN cache = ? THEN 1 END), count(CASE WHEN owner = ? THEN 1 END) FROM pushes
         WHERE state = 'open' AND abandoned_at IS NULL AND active_at > ?",
    )
    .bind(push.cache.as_str())
    .bind(push.owner)
    .bind(now.saturating_sub(ABANDONED_AFTER))
    .fetch_one(&mut **transaction)
    .await?;
    for (column, limit, full) in [
        (2, limits.per_identity, FullOf::Identity),
        (1, limits.per_cache, FullOf::Cache),
        (0, limits.in_all, FullOf::All),
    ] {
        if number(row.try_get(column)?)? >= u64::from(limit) {
            return Ok(Some(full));
        }
    }
    Ok(None)
}

/// What goes on record of a push that is committed.
async fn committed_entry(
    transaction: &mut Transaction<'static, Sqlite>,
    push: i64,
    who: &Who,
) -> Result<Entry, MetadataError> {
    let row = sqlx::query(
        "SELECT u.name, u.cache,
                (SELECT count(*) FROM paths p WHERE p.push = u.id AND p.hidden = 0),
                (SELECT coalesce(sum(p.nar_size), 0) FROM paths p WHERE p.push = u.id AND p.hidden = 0),
                (SELECT count(*) FROM divergences d WHERE d.push = u.id)
         FROM pushes u WHERE u.id = ?",
    )
    .bind(push)
    .fetch_one(&mut **transaction)
    .await?;
    let committed = Event::PushCommitted {
        push: PushId(blob(row.try_get(0)?)?).to_string(),
        paths: number(row.try_get(2)?)?,
        bytes: number(row.try_get(3)?)?,
        divergences: number(row.try_get(4)?)?,
    };
    let cache: CacheName = row
        .try_get::<&str, _>(1)?
        .parse()
        .map_err(|_| MetadataError::Damaged("a push's cache has no such name"))?;
    Ok(Entry::in_cache(&cache, who.clone(), committed))
}

/// Claims paths by their rows, and leases them where the push goes on. Fails if one of them is there no more.
async fn lease(
    transaction: &mut Transaction<'static, Sqlite>,
    push: i64,
    paths: &[(i64, StorePathHash)],
    goes_on: bool,
) -> Result<(), MetadataError> {
    let ids: Vec<i64> = paths.iter().map(|(id, _)| *id).collect();
    // By the hash as well: SQLite may give the number of a row that went to another.
    let there = |query: &mut QueryBuilder<Sqlite>| {
        query.push(" FROM paths WHERE id IN (");
        list(query, &ids);
        query.push(") AND hash IN (");
        let mut hashes = query.separated(", ");
        for (_, hash) in paths {
            hashes.push_bind(hash.0.to_vec());
        }
        query.push(")");
    };
    let mut count = QueryBuilder::<Sqlite>::new("SELECT count(*)");
    there(&mut count);
    let found: i64 = count.build_query_scalar().persistent(false).fetch_one(&mut **transaction).await?;
    if number(found)? < paths.len() as u64 {
        return Err(MetadataError::Gone);
    }
    claim(transaction, &ids).await?;
    if goes_on {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT OR IGNORE INTO leases (push, path) SELECT ");
        insert.push_bind(push).push(", id");
        there(&mut insert);
        insert.build().persistent(false).execute(&mut **transaction).await?;
    }
    Ok(())
}
