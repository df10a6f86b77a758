//! What comes from GitHub: its jobs, with their claims, and its deliveries, with their signatures.

use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use larder_protocol::api::Permission;
use larder_service::{
    Service,
    audit::{Entry, Event, Who},
    metadata::tokens::{NewSession, OpenedSession, UsedIdToken},
    trust::{Grant, GrantedTo, Rank, SecretToken},
};
use serde_json::{Value, json};
use sha2::Sha256;

const DAY: i64 = 24 * 60 * 60;

/// A session in a cache for a job of acme's main branch, or of what its claims are changed to.
pub async fn session(service: &Service, cache: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "iss": "https://token.actions.githubusercontent.com", "repository": "acme/flake", "repository_id": 42,
        "repository_visibility": "public", "ref": "refs/heads/main", "sha": "0123456789abcdef",
        "event_name": "push", "workflow_ref": "acme/flake/.github/workflows/ci.yml@refs/heads/main",
        "run_id": 1000, "run_attempt": 1, "check_run_id": 5000,
    });
    change(&mut claims);
    let session = SecretToken::generate("larder_s_").unwrap();
    let (now, id) = (service.clock.now(), session.hash().short());
    let grant = Grant {
        cache: cache.parse().unwrap(),
        permissions: vec![Permission::Push, Permission::Read],
        identity: GrantedTo::Job(serde_json::from_value(claims).unwrap()),
        rank: Rank::default(),
        isolated: None,
    };
    let used = UsedIdToken { issuer: "x", id: &id, issued_at: now, expires_at: now };
    let entry = Entry::of_service(
        Who::of(&grant.identity),
        Event::Granted { permissions: grant.permissions.clone(), until: now },
    );
    let expires_at = now + 100 * DAY;
    let new = NewSession { hash: session.hash(), grant: &grant, new_names: &[], expires_at };
    let opened = service.metadata.open_session(new, used, now, &entry).await.unwrap();
    assert_eq!(opened, OpenedSession::Opened);
    session.expose().to_owned()
}

/// The header that has a delivery's signature.
pub const SIGNATURE: &str = "X-Hub-Signature-256";

/// The signature of a delivery's body.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body);
    format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

/// A GUID.
pub fn guid() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("72d3162e-cc78-11e3-81ab-{:012}", COUNT.fetch_add(1, Ordering::SeqCst))
}
