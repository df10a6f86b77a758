//! Going to a place that a stranger named: over TLS, without any credential, and never to an address that is not
//! everybody's.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use ipnet::IpNet;
use reqwest::{
    Certificate,
    dns::{Addrs, Name, Resolve, Resolving},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a host may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// How the service reaches hosts that strangers name.
#[derive(Debug, Clone, Default)]
pub struct Internet {
    names: Option<Arc<Model>>,
}

/// An internet that a test has made.
#[derive(Debug)]
struct Model {
    names: HashMap<String, Vec<SocketAddr>>,
    is_public: fn(SocketAddr) -> bool,
    root: Vec<u8>,
}

impl Internet {
    /// One of a test's own making: these names and no others, with these addresses; which of those count as everybody's;
    /// and who signs certificates, in PEM. No configuration can say this.
    pub fn model(
        names: HashMap<String, Vec<SocketAddr>>,
        is_public: fn(SocketAddr) -> bool,
        root: Vec<u8>,
    ) -> Self {
        Self { names: Some(Arc::new(Model { names, is_public, root })) }
    }

    /// A client that follows no redirect by itself, tells nobody where it comes from, and connects to public addresses
    /// alone.
    ///
    /// # Errors
    /// When the system's TLS roots cannot be used.
    pub(super) fn client(&self) -> Result<reqwest::Client, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .https_only(true)
            // A proxy would look names up by itself, and go where we must not.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE)
            .dns_resolver(PublicAddresses(self.clone()))
            .user_agent(concat!("larderd/", env!("CARGO_PKG_VERSION")));
        match &self.names {
            None => builder.build(),
            Some(model) => builder.tls_certs_only([Certificate::from_pem(&model.root)?]).build(),
        }
    }

    async fn addresses(&self, name: &str) -> std::io::Result<Vec<SocketAddr>> {
        match &self.names {
            None => Ok(tokio::net::lookup_host((name, 0)).await?.collect()),
            Some(model) => Ok(model.names.get(name).cloned().unwrap_or_default()),
        }
    }

    fn is_public(&self, address: SocketAddr) -> bool {
        match &self.names {
            None => is_public(address.ip()),
            Some(model) => (model.is_public)(address),
        }
    }
}

/// A name has no address that is everybody's.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no public address")]
pub(super) struct NoPublicAddress(String);

/// Looks names up, and leaves out what is not everybody's: what it gives is what is connected to, so that a second answer
/// of the name's owner changes nothing.
struct PublicAddresses(Internet);

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let internet = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let mut addresses = internet.addresses(&name).await?;
            addresses.retain(|address| internet.is_public(*address));
            if addresses.is_empty() {
                return Err(NoPublicAddress(name).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// IANA's special-purpose registries: what is not reachable by everybody, or leads back in by another name.
const SPECIAL: [&str; 21] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
];
/// All that is given out to be reached by everybody.
const GLOBAL_V6: &str = "2000::/3";

static SPECIAL_NETWORKS: LazyLock<Vec<IpNet>> =
    LazyLock::new(|| SPECIAL.iter().filter_map(|text| text.parse().ok()).collect());

/// Whether an address is one that everybody has the same by.
pub(crate) fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if let IpAddr::V6(v6) = address {
        if let Some(inner) = translated(v6) {
            return is_public(inner);
        }
        if !GLOBAL_V6.parse().is_ok_and(|global: IpNet| global.contains(&address)) {
            return false;
        }
    }
    !SPECIAL_NETWORKS.iter().any(|network| network.contains(&address))
}

/// Whom a network that speaks IPv6 alone reaches by this address (64:ff9b::/96, RFC 6052).
fn translated(address: Ipv6Addr) -> Option<IpAddr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let [[w, x], [y, z]] = [high.to_be_bytes(), low.to_be_bytes()];
    ([a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| IpAddr::from([w, x, y, z]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_which_addresses_are_everybodys() {
        assert_eq!(SPECIAL_NETWORKS.len(), SPECIAL.len());
        for public in ["140.82.121.4", "1.1.1.1", "2606:4700::1111", "2a00:1450::1", "64:ff9b::8c52:7904"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "::127.0.0.1",
            "fec0::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
