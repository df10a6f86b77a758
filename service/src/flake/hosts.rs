//! Which hosts archives are fetched from, and the URL of an archive there.

use larder_protocol::flake_lock::{Commit, Origin};
use url::{Host, Url};

use crate::config::PrefetchHost;

/// Where GitHub sends those who ask for an archive, or for a file of a release.
const GITHUB: &str = "github.com";
const GITHUBS: [&str; 3] =
    ["codeload.github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com"];
const GITLAB: &str = "gitlab.com";

/// Why nothing is fetched from a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// It is no URL.
    #[error("its URL cannot be read")]
    Unreadable,
    /// Anything else than TLS.
    #[error("its URL is not https")]
    NotHttps,
    /// A name and password, or a token.
    #[error("its URL has a credential in it")]
    Credential,
    /// Another port than 443.
    #[error("its URL names a port")]
    Port,
    /// A host that is not on the list.
    #[error("its host is not one that archives are fetched from ([prefetch] hosts)")]
    Host,
}

/// The URL of an archive, if it may be fetched.
pub(super) fn url_of(origin: &Origin, hosts: &[PrefetchHost]) -> Result<Url, NotThere> {
    let url = match origin {
        Origin::GitHub(commit) => github(commit),
        Origin::GitLab(commit) => gitlab(commit),
        Origin::Tarball(url) => url.clone(),
    };
    let mut url = Url::parse(&url).map_err(|_| NotThere::Unreadable)?;
    check(&url, hosts)?;
    url.set_fragment(None);
    Ok(url)
}

/// As Nix asks for them, without a token.
fn github(Commit { host, owner, repository, revision }: &Commit) -> String {
    match host.as_deref().unwrap_or(GITHUB) {
        GITHUB => format!("https://{GITHUB}/{owner}/{repository}/archive/{revision}.tar.gz"),
        host => format!("https://{host}/api/v3/repos/{owner}/{repository}/tarball/{revision}"),
    }
}

fn gitlab(Commit { host, owner, repository, revision }: &Commit) -> String {
    let host = host.as_deref().unwrap_or(GITLAB);
    let owner = owner.replace('/', "%2F");
    format!("https://{host}/api/v4/projects/{owner}%2F{repository}/repository/archive.tar.gz?sha={revision}")
}

/// Whether something may be fetched from this URL.
pub(super) fn check(url: &Url, hosts: &[PrefetchHost]) -> Result<(), NotThere> {
    if url.scheme() != "https" {
        return Err(NotThere::NotHttps);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NotThere::Credential);
    }
    if url.port().is_some() {
        return Err(NotThere::Port);
    }
    // An address is none of the names, however it is written.
    let Some(Host::Domain(host)) = url.host() else { return Err(NotThere::Host) };
    let listed = |name: &str| hosts.iter().any(|listed| listed.as_str() == name);
    if listed(host) || GITHUBS.contains(&host) && listed(GITHUB) { Ok(()) } else { Err(NotThere::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Vec<PrefetchHost> {
        ["github.com", "gitlab.com"].map(|host| host.parse().unwrap()).to_vec()
    }

    #[test]
    fn archives_have_the_urls_that_nix_asks_for() {
        let commit = |host: Option<&str>, owner: &str| Commit {
            host: host.map(str::to_owned),
            owner: owner.to_owned(),
            repository: "r".to_owned(),
            revision: "ab".repeat(20),
        };
        let github = url_of(&Origin::GitHub(commit(None, "o")), &listed()).unwrap();
        assert_eq!(github.as_str(), format!("https://github.com/o/r/archive/{}.tar.gz", "ab".repeat(20)));
        let gitlab = url_of(&Origin::GitLab(commit(None, "g/s")), &listed()).unwrap();
        assert_eq!(
            gitlab.as_str(),
            format!(
                "https://gitlab.com/api/v4/projects/g%2Fs%2Fr/repository/archive.tar.gz?sha={}",
                "ab".repeat(20)
            )
        );
        let enterprise = Origin::GitHub(commit(Some("git.acme.org"), "o"));
        assert_eq!(url_of(&enterprise, &listed()), Err(NotThere::Host));
        let url = url_of(&enterprise, &["git.acme.org".parse().unwrap()]).unwrap();
        assert_eq!(
            url.as_str(),
            format!("https://git.acme.org/api/v3/repos/o/r/tarball/{}", "ab".repeat(20))
        );
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        for (url, why) in [
            ("http://github.com/x", NotThere::NotHttps),
            ("ftp://github.com/x", NotThere::NotHttps),
            ("file:///etc/passwd", NotThere::NotHttps),
            ("github.com/x", NotThere::Unreadable),
            ("", NotThere::Unreadable),
            ("https://", NotThere::Unreadable),
            ("https://user@github.com/x", NotThere::Credential),
            ("https://user:token@github.com/x", NotThere::Credential),
            ("https://github.com:8443/x", NotThere::Port),
            ("https://127.0.0.1/x", NotThere::Host),
            ("https://0x7f.1/x", NotThere::Host),
            ("https://2130706433/x", NotThere::Host),
            ("https://[::1]/x", NotThere::Host),
            ("https://[::ffff:127.0.0.1]/x", NotThere::Host),
            ("https://localhost/x", NotThere::Host),
            ("https://github.com./x", NotThere::Host),
            ("https://github.com.evil.example/x", NotThere::Host),
            ("https://evil-github.com/x", NotThere::Host),
            ("https://api.github.com/x", NotThere::Host),
            ("https://evil.example/?github.com", NotThere::Host),
            ("https://evil.example#@github.com", NotThere::Host),
            ("https://github.com\\@evil.example/", NotThere::Host),
            ("https://169.254.169.254/latest/meta-data", NotThere::Host),
        ] {
            let found = url_of(&Origin::Tarball(url.to_owned()), &listed());
            // A backslash is a slash: what follows is a path at github.com.
            if url.contains('\\') {
                assert_eq!(found.unwrap().host_str(), Some("github.com"));
                continue;
            }
            assert_eq!(found, Err(why), "{url}");
        }
        for host in ["a.example@github.com", "github.com/x", "evil.example#", "127.0.0.1", "[::1]", "a b"] {
            for origin in [Origin::GitHub, Origin::GitLab] {
                let commit = Commit {
                    host: Some(host.to_owned()),
                    owner: "o".to_owned(),
                    repository: "r".to_owned(),
                    revision: "ab".repeat(20),
                };
                if let Ok(url) = url_of(&origin(commit), &listed()) {
                    assert_eq!(url.host_str(), Some("github.com"), "{host}");
                }
            }
        }
        for url in ["https://GitHub.com/x#y", "https://github.com:443/x", "https://codeload.github.com/x"] {
            assert!(url_of(&Origin::Tarball(url.to_owned()), &listed()).is_ok(), "{url}");
        }
        let codeload = Origin::Tarball("https://codeload.github.com/x".to_owned());
        assert_eq!(url_of(&codeload, &["gitlab.com".parse().unwrap()]), Err(NotThere::Host));
    }
}
