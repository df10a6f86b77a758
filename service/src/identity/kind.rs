//! What kinds of issuer there are.

use std::fmt;

use serde::Deserialize;

/// Whose words an issuer's tokens use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// GitHub, an Enterprise Server, a host with data residency.
    #[default]
    GitHub,
    /// GitLab, 16.0 or newer.
    GitLab,
    /// Forgejo: some of GitHub's claims.
    Forgejo,
    /// Any other: of the one that holds the token only the subject is known.
    Oidc,
}

impl IssuerKind {
    /// The longest that a token may live, in seconds. GitHub and Forgejo make one for each exchange. GitLab makes a
    /// job's tokens when the job begins, and they live as long as the job may take.
    pub(super) fn longest_life(self) -> i64 {
        match self {
            Self::GitHub | Self::Forgejo => 60 * 60,
            Self::GitLab | Self::Oidc => 24 * 60 * 60,
        }
    }
}

impl fmt::Display for IssuerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
            Self::Forgejo => "forgejo",
            Self::Oidc => "oidc",
        })
    }
}
