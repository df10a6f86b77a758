//! How often somebody may come: a bound on requests that exchange tokens and push, never on those that read.
//!
//! Each address and each identity may send so many requests in a minute, all at once if it likes, and as many more as
//! the minute lets go by (the generic cell rate algorithm: all that is remembered of somebody is one point in time).
//! Before a token is verified only the address is known. Memory is bounded: whoever was forgotten begins anew.
//!
//! No request waits for the database. Where several replicas share one, each tells there again and again what was taken
//! here, and learns what was taken at the others ([`Paces::share`]). What they let by before they knew of each other is
//! made up for afterwards.

use std::{
    collections::HashMap,
    mem,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use crate::{
    client::Client,
    config::{Limits, Pacing},
    error::ApiError,
    metadata::{BATCH, Metadata, MetadataError},
};

/// Of how many addresses, and of how many identities, is remembered how often they came.
const REMEMBERED: usize = 50_000;
const MINUTE: i64 = micros(60);
/// How far ahead it can be used up, with what replicas let by at the same time: nobody waits for more than a minute of that.
const FURTHEST: i64 = 2 * MINUTE;

/// How often everybody came lately.
pub struct Paces {
    exchanges_of_address: Pace,
    exchanges_of_repository: Pace,
    requests_of_address: Pace,
    requests_of_identity: Pace,
}

impl Paces {
    /// As the configuration says, for a process that is alone or one of several replicas.
    pub(crate) fn new(limits: &Limits, is_shared: bool) -> Self {
        let Pacing {
            exchanges_per_address,
            exchanges_per_repository,
            push_requests_per_address,
            push_requests_per_identity,
        } = limits.pacing;
        let pace = |whose, limit, per_minute| Pace::new(whose, limit, per_minute, is_shared);
        Self {
            exchanges_of_address: pace("this address", "exchanges_per_address", exchanges_per_address),
            exchanges_of_repository: pace(
                "this repository",
                "exchanges_per_repository",
                exchanges_per_repository,
            ),
            requests_of_address: pace("this address", "push_requests_per_address", push_requests_per_address),
            requests_of_identity: pace(
                "this token's bearer",
                "push_requests_per_identity",
                push_requests_per_identity,
            ),
        }
    }

    /// An exchange, before the ID token is verified.
    pub(crate) fn exchange_from(&self, client: Client, now: i64) -> Result<(), ApiError> {
        self.exchanges_of_address.admit_address(client, now)
    }

    /// An exchange of what is verified to be a token of this repository, or of this subject.
    pub(crate) fn exchange_by(&self, issuer: &str, repository: &str, now: i64) -> Result<(), ApiError> {
        self.exchanges_of_repository.admit(&[issuer.as_bytes(), repository.as_bytes()], now)
    }

    /// A request to push, before its token is looked up.
    pub(crate) fn push_from(&self, client: Client, now: i64) -> Result<(), ApiError> {
        self.requests_of_address.admit_address(client, now)
    }

    /// A request to push by the owner of a token.
    pub(crate) fn push_by(&self, owner: &str, now: i64) -> Result<(), ApiError> {
        self.requests_of_identity.admit(&[owner.as_bytes()], now)
    }

    /// Tells the other replicas what was taken here since the last time, and learns what those who took it have used up
    /// at all of them. When the database fails, what was taken counts here alone.
    pub(crate) async fn share(&self, metadata: &Metadata, now: i64) -> Result<(), MetadataError> {
        for pace in [
            &self.exchanges_of_address,
            &self.exchanges_of_repository,
            &self.requests_of_address,
            &self.requests_of_identity,
        ] {
            let taken = pace.untold();
            if !taken.is_empty() {
                pace.learn(&metadata.use_up(&taken, micros(now)).await?);
                tracing::debug!(limit = pace.limit, whose = taken.len(), "what was used here is shared");
            }
        }
        Ok(())
    }
}

/// A digest of a limit and of whom it bounds.
pub(crate) type Key = [u8; 16];

/// What somebody took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// From when on, in microseconds since 1970.
    since: i64,
    /// As much as comes again in so many microseconds.
    much: i64,
}

impl Taken {
    /// Until when somebody has used up what he may, who had done so until `used_until` and took this besides.
    pub(crate) fn after(self, used_until: i64, now: i64) -> i64 {
        let used_until = plausible(used_until, now).max(self.since);
        used_until.saturating_add(self.much).min(now + FURTHEST)
    }
}

/// Seconds since 1970 as paces are kept: in microseconds.
pub(crate) const fn micros(seconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000)
}

/// Where the clock went back, nobody waits longer than if he had used up everything now.
fn plausible(used_until: i64, now: i64) -> i64 {
    if used_until > now + FURTHEST { now + MINUTE } else { used_until }
}

/// Whoever has an IPv6 address has a whole network of them. What cannot be told from other clients of a proxy has no
/// pace of its own: one of them could use up what all have.
fn network(client: Client) -> Option<Ipv6Addr> {
    const NETWORK: u128 = !0 << 64;
    match client.alone()? {
        IpAddr::V4(address) => Some(address.to_ipv6_mapped()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
    }
}

struct Pace {
    whose: &'static str,
    limit: &'static str,
    per_minute: u32,
    /// Until when each has used up what it may, in microseconds since 1970.
    used_until: Cache<Key, Arc<AtomicI64>>,
    /// What was taken that the other replicas do not know of. Of so many that are new at the same time that it becomes
    /// more than one transaction may write, the others are not told.
    untold: Option<Mutex<HashMap<Key, Taken>>>,
}

impl Pace {
    fn new(whose: &'static str, limit: &'static str, per_minute: u32, is_shared: bool) -> Self {
        let used_until = Cache::new(REMEMBERED);
        Self { whose, limit, per_minute, used_until, untold: is_shared.then(Mutex::default) }
    }

    fn key(&self, whom: &[&[u8]]) -> Key {
        let mut digest = Sha256::new();
        for part in [&[self.limit.as_bytes()], whom].concat() {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let [key, _] = *digest.finalize().as_chunks().0 else { return [0; 16] };
        key
    }

    fn admit_address(&self, client: Client, now: i64) -> Result<(), ApiError> {
        match network(client) {
            None => Ok(()),
            Some(network) => self.admit(&[&network.octets()], now),
        }
    }

    fn admit(&self, whom: &[&[u8]], now: i64) -> Result<(), ApiError> {
        let key = self.key(whom);
        let fresh = || Ok::<_, std::convert::Infallible>(Arc::new(AtomicI64::new(0)));
        let Ok(used_until) = self.used_until.get_or_insert_with(&key, fresh);
        let now = micros(now);
        let each = MINUTE / i64::from(self.per_minute.max(1));
        let used = |stored: i64| plausible(stored, now).max(now);
        let left = |stored: i64| now + MINUTE - used(stored) - each;
        let take = |stored| Some(if left(stored) >= 0 { used(stored) + each } else { used(stored) });
        let (Ok(stored) | Err(stored)) = used_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let missing = u64::try_from(-left(stored)).unwrap_or_default();
        if missing == 0 {
            self.note(key, Taken { since: now, much: each });
            return Ok(());
        }
        let wait = missing.div_ceil(1_000_000);
        Err(ApiError::too_many(
            format!(
                "{} sent more than {} such requests in a minute (limits.{}). Try again in {wait} s",
                self.whose, self.per_minute, self.limit
            ),
            Duration::from_secs(wait),
        ))
    }

    fn note(&self, key: Key, taken: Taken) {
        let Some(untold) = &self.untold else { return };
        let mut untold = untold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = untold.get_mut(&key) {
            before.much += taken.much;
        } else if untold.len() < BATCH {
            untold.insert(key, taken);
        }
    }

    fn untold(&self) -> Vec<(Key, Taken)> {
        let Some(untold) = &self.untold else { return Vec::new() };
        mem::take(&mut *untold.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }

    fn learn(&self, used: &[(Key, i64)]) {
        for (key, until) in used {
            if let Some(used_until) = self.used_until.get(key) {
                // Something may have been taken meanwhile, which the next time says.
                used_until.fetch_max(*until, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_at_once_or_one_after_another() {
        let pace = Pace::new("somebody", "key", 6, false);
        let admitted = |key: u8, now| pace.admit(&[&[key]], now).is_ok();
        let burst = |key, now| (0..10).take_while(|_| admitted(key, now)).count();
        assert_eq!(burst(1, 1000), 6);
        assert_eq!(burst(2, 1000), 6, "another has a pace of his own");
        assert_eq!([1009, 1010, 1011, 1020].map(|now| burst(1, now)), [0, 1, 0, 1]);
        assert_eq!(burst(1, 2000), 6, "what was not used does not add up");
        assert_eq!(burst(1, 500), 0, "the clock went back");
        assert_eq!(burst(1, 510), 1, "and that is forgotten soon");
    }

    #[test]
    fn the_answer_says_when_and_which_limit() {
        let pace = Pace::new("somebody", "key", 2, false);
        for _ in 0..2 {
            pace.admit(&[], 1000).unwrap();
        }
        let refusal = pace.admit(&[], 1001).unwrap_err();
        assert_eq!(
            refusal.message(),
            "somebody sent more than 2 such requests in a minute (limits.key). Try again in 29 s"
        );
        assert!(pace.admit(&[], 1029).is_err());
        pace.admit(&[], 1030).unwrap();
    }

    #[test]
    fn an_organisation_behind_one_address_and_a_large_push_are_not_slowed() {
        let paces = Paces::new(&Limits::default(), false);
        let office = Client { address: "198.51.100.1".parse().ok(), shared: false };
        for repository in 0..100 {
            for _job in 0..10 {
                paces.exchange_from(office, 1000).unwrap();
                paces.exchange_by("issuer", &repository.to_string(), 1000).unwrap();
            }
        }
        // Of a repository whose workflow has as many jobs as it can have.
        for _ in 0..256 {
            paces.exchange_by("issuer", "matrix", 1000).unwrap();
        }
        for _upload in 0..10_000 {
            paces.push_from(office, 1000).unwrap();
            paces.push_by("job", 1000).unwrap();
        }
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let of = |text: &str| network(Client { address: text.parse().ok(), shared: false });
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("198.51.100.1"), of("198.51.100.2"));
        assert_eq!(network(Client { address: "127.0.0.1".parse().ok(), shared: true }), None);
    }

    /// Replicas, and the rows that they share.
    struct Shared<const N: usize> {
        replicas: [Pace; N],
        rows: HashMap<Key, i64>,
    }

    impl<const N: usize> Shared<N> {
        fn new(per_minute: u32) -> Self {
            Self {
                replicas: std::array::from_fn(|_| Pace::new("somebody", "key", per_minute, true)),
                rows: HashMap::new(),
            }
        }

        /// How many of so many requests to one of them are let by.
        fn admits(&self, replica: usize, requests: usize, now: i64) -> usize {
            (0..requests).filter(|_| self.replicas[replica].admit(&[], now).is_ok()).count()
        }

        /// One of them tells the others, and learns from them.
        fn share(&mut self, replica: usize, now: i64) {
            let used = self.replicas[replica].untold().into_iter().map(|(key, taken)| {
                let row = self.rows.entry(key).or_default();
                *row = taken.after(*row, micros(now));
                (key, *row)
            });
            self.replicas[replica].learn(&used.collect::<Vec<_>>());
        }

        fn share_all(&mut self, now: i64) {
            (0..N).for_each(|replica| self.share(replica, now));
        }
    }

    #[test]
    fn what_is_used_up_at_one_replica_is_used_up_at_the_other() {
        let mut shared = Shared::<2>::new(6);
        assert_eq!(shared.admits(0, 10, 1000), 6);
        shared.share(0, 1000);
        assert_eq!(shared.admits(1, 1, 1001), 1, "it has not asked yet");
        shared.share(1, 1001);
        assert_eq!(shared.admits(1, 10, 1001), 0);
        let refusal = shared.replicas[1].admit(&[], 1001).unwrap_err();
        assert!(refusal.message().ends_with("(limits.key). Try again in 19 s"), "{}", refusal.message());
        assert_eq!(shared.admits(1, 10, 1020), 1, "what one let by too much is made up for");
    }

    #[test]
    fn several_replicas_let_by_no_more_than_one_in_the_long_run() {
        let mut shared = Shared::<3>::new(60);
        let mut admitted = 0;
        for now in 1000..1600 {
            for replica in 0..3 {
                admitted += shared.admits(replica, 10, now);
            }
            shared.share_all(now);
        }
        // Ten minutes' worth, a minute's at once before, and what comes before they know of each other.
        assert!((650..=750).contains(&admitted), "{admitted}");
    }

    #[test]
    fn to_a_replica_alone_sharing_makes_no_difference() {
        let (mut shared, alone) = (Shared::<1>::new(6), Pace::new("somebody", "key", 6, false));
        for now in (1000..2000).step_by(7) {
            for _ in 0..now % 3 {
                let refused =
                    |pace: &Pace| pace.admit(&[], now).err().map(|refusal| refusal.message().to_owned());
                assert_eq!(refused(&shared.replicas[0]), refused(&alone), "{now}");
            }
            // Now and then it cannot.
            if now % 5 > 0 {
                shared.share(0, now + 3);
            }
        }
    }

    #[test]
    fn nobody_waits_for_more_than_a_minute_of_what_replicas_let_by_too_much() {
        let mut shared = Shared::<5>::new(6);
        for replica in 0..5 {
            assert_eq!(shared.admits(replica, 10, 1000), 6);
        }
        shared.share_all(1000);
        assert_eq!(shared.rows.values().copied().collect::<Vec<_>>(), [micros(1120)]);
        assert_eq!(shared.admits(4, 10, 1069), 0);
        assert_eq!(shared.admits(4, 10, 1070), 1);
        // A clock that was ahead, and was set right.
        shared.rows.values_mut().for_each(|row| *row = micros(9000));
        shared.share(4, 1070);
        assert_eq!(shared.admits(4, 10, 1090), 1);
    }

    #[test]
    fn what_one_transaction_may_write_bounds_what_the_others_are_told() {
        let pace = Pace::new("somebody", "key", 6, true);
        for whose in 0..2 * BATCH {
            pace.admit(&[&whose.to_le_bytes()], 1000).unwrap();
            pace.admit(&[&0_usize.to_le_bytes()], 1000 + 10 * whose as i64).unwrap();
        }
        assert_eq!(pace.untold().len(), BATCH);
        assert!(pace.untold().is_empty());
    }
}
