//! Where people see a run.

use url::Url;

use crate::{
    config::issuer::GITHUB,
    identity::{Claims, IssuerKind},
};

/// What tells GitHub's data residency: `https://token.actions.SUBDOMAIN.ghe.com`.
const DATA_RESIDENCY: (&str, &str) = ("token.actions.", ".ghe.com");
/// What GitHub Enterprise Server's issuers end with: `https://HOST/_services/token`.
const ENTERPRISE_SERVER: &str = "/_services/token";

/// The page of the run, where the issuer tells on which server it is.
pub(super) fn of(claims: &Claims, kind: IssuerKind) -> Option<String> {
    let Claims { issuer, repository, run_id, run_attempt, .. } = claims;
    match kind {
        IssuerKind::GitHub => {
            let server = github_server(issuer)?;
            Some(format!("{server}/{repository}/actions/runs/{run_id}/attempts/{run_attempt}"))
        }
        // The issuer is the instance itself, and what it calls a pipeline is the run.
        IssuerKind::GitLab => {
            Some(format!("{}/{repository}/-/pipelines/{run_id}", issuer.trim_end_matches('/')))
        }
        // Forgejo's pages count a repository's runs, and its tokens do not tell that number.
        IssuerKind::Forgejo | IssuerKind::Oidc => None,
    }
}

/// The web server of an issuer that is GitHub's: its origin.
fn github_server(issuer: &str) -> Option<String> {
    // An enterprise may have an issuer of its own, with its name behind a slash.
    if issuer == GITHUB || issuer.strip_prefix(GITHUB).is_some_and(|rest| rest.starts_with('/')) {
        return Some("https://github.com".to_owned());
    }
    let url = Url::parse(issuer).ok()?;
    let (before, after) = DATA_RESIDENCY;
    let residency = url.host_str().and_then(|host| host.strip_prefix(before)?.strip_suffix(after));
    if let Some(subdomain) = residency.filter(|name| !name.is_empty() && !name.contains('.')) {
        return Some(format!("https://{subdomain}{after}"));
    }
    (url.path().trim_end_matches('/') == ENTERPRISE_SERVER).then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_where_its_kind_of_server_has_it() {
        let claims = |issuer: &str| -> Claims {
            let said = serde_json::json!({
                "iss": issuer, "repository": "acme/infra/flake", "repository_id": 1, "ref": "refs/heads/main",
                "sha": "0", "event_name": "push", "run_id": 7, "run_attempt": 2,
            });
            serde_json::from_value(said).unwrap()
        };
        for (issuer, kind, page) in [
            (
                GITHUB,
                IssuerKind::GitHub,
                Some("https://github.com/acme/infra/flake/actions/runs/7/attempts/2"),
            ),
            (
                "https://gitlab.com",
                IssuerKind::GitLab,
                Some("https://gitlab.com/acme/infra/flake/-/pipelines/7"),
            ),
            (
                "https://x.example/gitlab/",
                IssuerKind::GitLab,
                Some("https://x.example/gitlab/acme/infra/flake/-/pipelines/7"),
            ),
            ("https://codeberg.org/api/actions", IssuerKind::Forgejo, None),
            ("https://issuer.example", IssuerKind::Oidc, None),
        ] {
            assert_eq!(of(&claims(issuer), kind).as_deref(), page);
        }
    }

    #[test]
    fn a_run_is_on_its_issuers_server() {
        for (issuer, server) in [
            ("https://token.actions.githubusercontent.com", Some("https://github.com")),
            ("https://token.actions.githubusercontent.com/octo-enterprise", Some("https://github.com")),
            ("https://token.actions.octo.ghe.com", Some("https://octo.ghe.com")),
            ("https://github.example.org/_services/token", Some("https://github.example.org")),
            ("https://github.example.org:8443/_services/token", Some("https://github.example.org:8443")),
            ("https://token.actions.githubusercontent.com.evil.example", None),
            ("https://token.actions.evil.example/x.ghe.com", None),
            ("https://token.actions.a.b.ghe.com", None),
            ("https://issuer.example.org", None),
        ] {
            assert_eq!(github_server(issuer).as_deref(), server, "{issuer}");
        }
    }
}
