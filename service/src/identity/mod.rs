//! Who a job is: issuers, their keys, and what their ID tokens say.

mod algorithm;
mod claims;
mod gitlab;
mod issuers;
mod keys;
mod kind;
mod token;
mod token_claims;

pub use self::{
    algorithm::SigningAlgorithm,
    claims::{Claims, EventName, GitRef, InvalidClaim, OwnerName, RepositoryName, Subject},
    issuers::{Issuers, IssuersError},
    kind::IssuerKind,
    token::{IdToken, InvalidIdToken},
    token_claims::{Bearer, TokenClaims},
};
