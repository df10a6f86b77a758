//! Deliveries, as GitHub sends them.

use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

/// Delivers an event to a service that must take it.
pub async fn deliver(service: &str, secret: &str, event: &str, payload: &Value) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let body = payload.to_string();
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(&body);
    let answer = reqwest::Client::new()
        .post(format!("{service}/webhooks/github"))
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", format!("guid-{}", COUNT.fetch_add(1, Ordering::SeqCst)))
        .header("X-Hub-Signature-256", format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes())))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
}
