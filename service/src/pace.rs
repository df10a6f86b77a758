//! How often somebody may come: a bound on requests that exchange tokens and push, never on those that read.
//!
//! Each address and each identity may send so many requests in a minute, all at once if it likes, and as many more as
//! the minute lets go by (the generic cell rate algorithm: all that is remembered of somebody is one point in time).
//! Before a token is verified only the address is known. Memory is bounded: whoever was forgotten begins anew.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
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
};

/// Of how many addresses, and of how many identities, is remembered how often they came.
const REMEMBERED: usize = 50_000;
const MINUTE: i64 = 60_000_000;

/// How often everybody came lately.
pub struct Paces {
    exchanges_of_address: Pace,
    exchanges_of_repository: Pace,
    requests_of_address: Pace,
    requests_of_identity: Pace,
}

impl Paces {
    /// As the configuration says.
    pub(crate) fn new(limits: &Limits) -> Self {
        let Pacing {
            exchanges_per_address,
            exchanges_per_repository,
            push_requests_per_address,
            push_requests_per_identity,
        } = limits.pacing;
        Self {
            exchanges_of_address: Pace::new("this address", "exchanges_per_address", exchanges_per_address),
            exchanges_of_repository: Pace::new(
                "this repository",
                "exchanges_per_repository",
                exchanges_per_repository,
            ),
            requests_of_address: Pace::new(
                "this address",
                "push_requests_per_address",
                push_requests_per_address,
            ),
            requests_of_identity: Pace::new(
                "this token's bearer",
                "push_requests_per_identity",
                push_requests_per_identity,
            ),
        }
    }

    /// An exchange, before the ID token is verified.
    pub(crate) fn exchange_from(&self, client: Client, now: i64) -> Result<(), ApiError> {
        self.exchanges_of_address.admit(of_address(client), now)
    }

    /// An exchange of what is verified to be a token of this repository, or of this subject.
    pub(crate) fn exchange_by(&self, issuer: &str, repository: &str, now: i64) -> Result<(), ApiError> {
        self.exchanges_of_repository.admit(Some(of_text(&[issuer, repository])), now)
    }

    /// A request to push, before its token is looked up.
    pub(crate) fn push_from(&self, client: Client, now: i64) -> Result<(), ApiError> {
        self.requests_of_address.admit(of_address(client), now)
    }

    /// A request to push by the owner of a token.
    pub(crate) fn push_by(&self, owner: &str, now: i64) -> Result<(), ApiError> {
        self.requests_of_identity.admit(Some(of_text(&[owner])), now)
    }
}

type Key = [u8; 16];

/// Whoever has an IPv6 address has a whole network of them. What cannot be told from other clients of a proxy has no
/// pace of its own: one of them could use up what all have.
fn of_address(client: Client) -> Option<Key> {
    const NETWORK: u128 = !0 << 64;
    match client.alone()? {
        IpAddr::V4(address) => Some(address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits() & NETWORK).octets()),
    }
}

fn of_text(texts: &[&str]) -> Key {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    let [key, _] = *digest.finalize().as_chunks().0 else { return [0; 16] };
    key
}

struct Pace {
    whose: &'static str,
    key: &'static str,
    per_minute: u32,
    /// Until when each has used up what it may, in microseconds since 1970.
    used_until: Cache<Key, Arc<AtomicI64>>,
}

impl Pace {
    fn new(whose: &'static str, key: &'static str, per_minute: u32) -> Self {
        Self { whose, key, per_minute, used_until: Cache::new(REMEMBERED) }
    }

    fn admit(&self, key: Option<Key>, now: i64) -> Result<(), ApiError> {
        let Some(key) = key else { return Ok(()) };
        let fresh = || Ok::<_, std::convert::Infallible>(Arc::new(AtomicI64::new(0)));
        let Ok(used_until) = self.used_until.get_or_insert_with(&key, fresh);
        let now = now.saturating_mul(1_000_000);
        let each = MINUTE / i64::from(self.per_minute.max(1));
        // Where the clock went back, nobody waits longer than if he had used up everything now.
        let used = |stored: i64| stored.clamp(now, now + MINUTE);
        let left = |stored: i64| now + MINUTE - used(stored) - each;
        let take = |stored| Some(if left(stored) >= 0 { used(stored) + each } else { used(stored) });
        let (Ok(stored) | Err(stored)) = used_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let missing = u64::try_from(-left(stored)).unwrap_or_default();
        if missing == 0 {
            return Ok(());
        }
        let wait = missing.div_ceil(1_000_000);
        Err(ApiError::too_many(
            format!(
                "{} sent more than {} such requests in a minute (limits.{}). Try again in {wait} s",
                self.whose, self.per_minute, self.key
            ),
            Duration::from_secs(wait),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_at_once_or_one_after_another() {
        let pace = Pace::new("somebody", "key", 6);
        let admitted = |key: u8, now| pace.admit(Some([key; 16]), now).is_ok();
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
        let pace = Pace::new("somebody", "key", 2);
        for _ in 0..2 {
            pace.admit(Some([1; 16]), 1000).unwrap();
        }
        let refusal = pace.admit(Some([1; 16]), 1001).unwrap_err();
        assert_eq!(
            refusal.message(),
            "somebody sent more than 2 such requests in a minute (limits.key). Try again in 29 s"
        );
        assert!(pace.admit(Some([1; 16]), 1029).is_err());
        pace.admit(Some([1; 16]), 1030).unwrap();
    }

    #[test]
    fn an_organisation_behind_one_address_and_a_large_push_are_not_slowed() {
        let paces = Paces::new(&Limits::default());
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
        let key = |text: &str| of_address(Client { address: text.parse().ok(), shared: false });
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("198.51.100.1"), key("198.51.100.2"));
        assert_eq!(of_address(Client { address: "127.0.0.1".parse().ok(), shared: true }), None);
    }
}
