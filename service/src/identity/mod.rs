//! Who a job is: issuers, their keys, and what their ID tokens say.

mod claims;
mod issuers;
mod keys;
mod token;

pub use self::{
    claims::{Claims, EventName, GitRef, InvalidClaim, RepositoryName},
    issuers::{Issuers, IssuersError},
    token::{IdToken, InvalidIdToken},
};
