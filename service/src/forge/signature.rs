//! Who sent a delivery: the HMAC-SHA-256 of its body, by a secret that the forge and the configuration know.

use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use sha2::Sha256;

use crate::config::{WebhookRule, WebhookSecret};

/// The header. What `X-Hub-Signature` says besides is a SHA-1, and counts for nothing.
const HEADER: &str = "x-hub-signature-256";
const PREFIX: &str = "sha256=";

/// What a delivery's header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signature([u8; 32]);

impl Signature {
    /// The signature, if there is one and it can be one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let digits = value.to_str().ok()?.strip_prefix(PREFIX)?;
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The rules by one of whose secrets the body was signed.
    pub(super) fn rules<'a>(self, rules: &'a [WebhookRule], body: &[u8]) -> Vec<&'a WebhookRule> {
        rules.iter().filter(|rule| rule.secrets.iter().any(|secret| self.is_by(secret, body))).collect()
    }

    /// In constant time.
    fn is_by(self, secret: &WebhookSecret, body: &[u8]) -> bool {
        // It takes keys of any length.
        Hmac::<Sha256>::new_from_slice(secret.as_bytes())
            .is_ok_and(|mac| mac.chain_update(body).verify_slice(&self.0).is_ok())
    }
}
