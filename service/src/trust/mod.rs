//! Who may do what: rules, the exchange of ID tokens, session tokens and people's tokens.

mod alternatives;
mod authorize;
mod denial;
mod exchange;
mod grant;
mod names;
mod pattern;
pub mod people;
mod pull_request;
mod push_event;
mod rank;
mod read;
mod resolve;
mod rule;
mod rules;
mod secret;
mod standing;

pub use self::{
    alternatives::Alternatives,
    authorize::{PushGrant, authorize},
    denial::Denial,
    exchange::{exchange_token, revoke_session},
    grant::{Grant, GrantedTo},
    names::{BoundName, NumberSource, Numbers, Suspension, TrustedName},
    pattern::{InvalidPattern, Pattern, RefPattern, RepositoryPattern, WorkflowPattern},
    pull_request::PullRequest,
    push_event::{PushEvent, SaidOfRepository},
    rank::{InvalidRank, Rank},
    read::{permits_reading, readable},
    resolve::resolve_names,
    rule::TrustRule,
    rules::{Decision, TrustRules},
    secret::{SecretToken, TokenHash},
    standing::{Standing, Verdict},
};
pub(crate) use self::{
    authorize::{grant_of_request, grant_to_read, token_of},
    rule::default_permissions,
};
