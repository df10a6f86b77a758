//! Roots as rows: which paths they are, and how much each is worth when not all that roots keep has room.

use super::sql::QueryBuilder;
use larder_protocol::{StorePathHash, api::CacheName};

/// Where roots are taken from.
#[derive(Debug, Clone, Copy)]
pub enum RootsOf {
    /// What the pushes of a run were to keep.
    Run(i64),
    /// One path, by its hash.
    Path(StorePathHash),
    /// What open pushes were told is there.
    Leases,
    /// What pull requests' own caches were told is there, as long as they live.
    PullRequests,
    /// What was pushed since.
    PushedSince(i64),
    /// What was read since.
    ReadSince(i64),
    /// What was not found dead before.
    NotDeadBefore(i64),
}

/// What it is worth to keep a root. Of what has no room, that goes first which is worth least: numbers are moments of
/// last use, above them what is to go last, below them what nothing keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It never goes for want of room.
    Held,
    /// The same, and takes none: pull requests' own caches have bounds of their own.
    NotCounted,
    /// By when it was pushed or, if that is later, read.
    Used(i64),
    /// The same, of what goes after all of that.
    UsedLast(i64),
    /// By when each of its pushes was committed.
    Pushed,
    /// By when each path was read.
    Read,
}

impl Worth {
    /// Of what never goes for want of room.
    pub const HELD: i64 = i64::MAX;
    /// Of what pull requests' own caches alone have or need. Less than whatever else keeps it, so that it counts by that.
    pub const NOT_COUNTED: i64 = i64::MIN;
    /// More than any moment.
    const LAST: i64 = 1 << 41;

    /// Of what nothing keeps, by since when.
    pub fn of_dead(since: i64) -> i64 {
        since - Self::LAST
    }

    /// Since when nothing keeps it, where that is so.
    pub fn dead_since(worth: i64) -> Option<i64> {
        (worth < 0).then_some(worth + Self::LAST)
    }

    /// When it was used last, where something keeps it that may go for want of room.
    pub fn used_at(worth: i64) -> Option<i64> {
        (0..Self::HELD).contains(&worth).then_some(worth % Self::LAST)
    }

    /// As a column, where the rows of [`select`] are.
    pub(super) fn push(self, query: &mut QueryBuilder) {
        let mut used = |base: i64, pushed_at: i64| {
            query.push_bind(base).push(" + CASE WHEN p.read_at > ").push_bind(pushed_at);
            query.push(" THEN p.read_at ELSE ").push_bind(pushed_at).push(" END");
        };
        match self {
            Self::Used(pushed_at) => used(0, pushed_at),
            Self::UsedLast(pushed_at) => used(Self::LAST, pushed_at),
            Self::Held => {
                query.push_bind(Self::HELD);
            }
            Self::NotCounted => {
                query.push_bind(Self::NOT_COUNTED);
            }
            Self::Pushed => {
                query.push("u.committed_at");
            }
            Self::Read => {
                query.push("p.read_at");
            }
        }
    }
}

/// Only what readers see of paths `p`.
const VISIBLE: &str = "JOIN pushes v ON v.id = p.push AND v.state = 'committed' AND p.hidden = 0";

/// Selects the paths `p` that are such roots of a cache: all behind `FROM`.
pub(super) fn select(query: &mut QueryBuilder, roots: RootsOf, cache: &CacheName) {
    match roots {
        RootsOf::Run(run) => {
            query.push(
                "pushes u JOIN push_roots t ON t.push = u.id JOIN paths p ON p.cache = u.cache AND p.hash = t.hash ",
            );
            query.push(VISIBLE);
            query.push(" WHERE u.state = 'committed' AND u.dropped_at IS NULL AND u.run = ").push_bind(run);
        }
        RootsOf::Path(hash) => {
            query.push("paths p ").push(VISIBLE).push(" WHERE p.hash = ").push_bind(hash.0.to_vec());
        }
        RootsOf::Leases => {
            query.push("leases l JOIN paths p ON p.id = l.path ").push(VISIBLE);
            query.push(
                " JOIN pushes u ON u.id = l.push
                 WHERE u.state = 'open' AND u.abandoned_at IS NULL AND u.cache NOT LIKE '%~%'",
            );
        }
        RootsOf::PullRequests => {
            query.push("leases l JOIN paths p ON p.id = l.path ").push(VISIBLE);
            query.push(" JOIN pushes u ON u.id = l.push WHERE u.cache LIKE '%~%'");
        }
        RootsOf::PushedSince(since) => {
            query.push(
                "pushes u JOIN push_roots t ON t.push = u.id JOIN paths p ON p.cache = u.cache AND p.hash = t.hash ",
            );
            query.push(VISIBLE);
            query.push(" WHERE u.state = 'committed' AND u.dropped_at IS NULL AND u.cache = ");
            query.push_bind(cache.as_str().to_owned()).push(" AND u.committed_at > ").push_bind(since);
        }
        RootsOf::ReadSince(since) => {
            query.push("paths p ").push(VISIBLE).push(" WHERE p.read_at > ").push_bind(since);
        }
        RootsOf::NotDeadBefore(since) => {
            query.push("paths p ").push(VISIBLE).push(" WHERE (p.dead_since IS NULL OR p.dead_since > ");
            query.push_bind(since).push(")");
        }
    }
    query.push(" AND p.cache = ").push_bind(cache.as_str().to_owned());
}
