//! Going to an upstream: whoever asks one does it by this client, so that where an upstream may send us is said once.

use reqwest::{
    ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::Url;

use crate::flake::is_public;

/// How many redirections are followed.
const MAX_REDIRECTIONS: usize = 5;

/// A client of the upstream at this URL, still without its time limits.
pub(crate) fn client(url: &str) -> ClientBuilder {
    let own = Url::parse(url).ok();
    let own_host = own.as_ref().and_then(Url::host_str).unwrap_or_default().to_ascii_lowercase();
    reqwest::Client::builder()
        .redirect(redirect::Policy::custom(move |attempt| {
            let far = attempt.previous().len() > MAX_REDIRECTIONS;
            if !far && own.as_ref().is_some_and(|own| may_redirect(own, attempt.url())) {
                attempt.follow()
            } else {
                attempt.error("it redirects to where nothing is fetched from")
            }
        }))
        .dns_resolver(Elsewhere(own_host))
        // A proxy would look names up by itself, and go where we must not.
        .no_proxy()
        .referer(false)
        .user_agent(concat!("larderd/", env!("CARGO_PKG_VERSION")))
}

/// Where an upstream may redirect to: within itself; or, as caches that keep their NARs elsewhere do, by https to a
/// name or an address of the public network.
fn may_redirect(own: &Url, to: &Url) -> bool {
    if own.origin() == to.origin() {
        return true;
    }
    to.scheme() == "https"
        && match to.host() {
            // Its addresses are looked at when it is looked up.
            Some(url::Host::Domain(_)) => true,
            Some(url::Host::Ipv4(address)) => is_public(address.into()),
            Some(url::Host::Ipv6(address)) => is_public(address.into()),
            None => false,
        }
}

/// Looks up names for an upstream of this name: other names, to which it redirects, have public addresses alone.
struct Elsewhere(String);

impl Resolve for Elsewhere {
    fn resolve(&self, name: Name) -> Resolving {
        let own = name.as_str().eq_ignore_ascii_case(&self.0);
        Box::pin(async move {
            let mut addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            addresses.retain(|address| own || is_public(address.ip()));
            if addresses.is_empty() {
                return Err(format!("{} has no public address", name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_elsewhere_has_a_public_address_or_none() {
        let resolve = async |own: &str| Elsewhere(own.to_owned()).resolve("localhost".parse().unwrap()).await;
        assert!(resolve("LOCALHOST").await.is_ok());
        assert!(resolve("cache.example").await.is_err());
    }

    #[test]
    fn redirections_lead_nowhere_private() {
        let own = Url::parse("http://cache.example:8080/a").unwrap();
        for (to, may) in [
            ("http://cache.example:8080/b", true),
            ("https://bucket.example/x", true),
            ("https://9.9.9.9/x", true),
            ("http://cache.example:8081/b", false),
            ("http://elsewhere.example/x", false),
            ("https://127.0.0.1/x", false),
            ("https://169.254.169.254/latest/meta-data", false),
            ("https://10.1.2.3/x", false),
            ("https://[::1]/x", false),
            ("ftp://bucket.example/x", false),
        ] {
            assert_eq!(may_redirect(&own, &Url::parse(to).unwrap()), may, "{to}");
        }
    }
}
