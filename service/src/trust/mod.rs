//! Who may do what: rules, the exchange of ID tokens, session tokens and people's tokens.

mod authorize;
mod exchange;
mod grant;
mod pattern;
pub mod people;
mod pull_request;
mod rank;
mod rules;
mod secret;

pub(crate) use self::authorize::token_of;
pub use self::{
    authorize::{PushGrant, authorize},
    exchange::{exchange_token, revoke_session},
    grant::{Grant, GrantedTo},
    pattern::{InvalidRefPattern, RefPattern},
    pull_request::PullRequest,
    rank::{InvalidRank, Rank},
    rules::{Denial, TrustRule, TrustRules},
    secret::{SecretToken, TokenHash},
};
