//! Where a request comes from.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use ipnet::IpNet;

use crate::Service;

/// The other end of the connection that a request came by, put into its extensions where the connection is served.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Who sent a request, as an argument of a handler: the peer, or whom a trusted proxy says that it speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The address; `None` where there is no connection, as in tests.
    pub address: Option<IpAddr>,
    /// Whether that is a trusted proxy that does not say whom it speaks for.
    pub shared: bool,
}

impl Client {
    /// The address, if it is one client's.
    pub(crate) fn alone(self) -> Option<IpAddr> {
        self.address.filter(|_| !self.shared)
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";

impl FromRequestParts<Arc<Service>> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Infallible> {
        let Some(Peer(peer)) = parts.extensions.get().copied() else {
            return Ok(Self { address: None, shared: true });
        };
        let peer = peer.to_canonical();
        let proxies = &service.config.trusted_proxies;
        if !is_trusted(proxies, peer) && parts.headers.contains_key(FORWARDED_FOR) {
            warn_of_unknown_proxy(peer);
        }
        let address = behind_proxies(proxies, peer, &parts.headers);
        Ok(Self { address: Some(address), shared: is_trusted(proxies, address) })
    }
}

fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    proxies.iter().any(|network| network.contains(&address))
}

/// The nearest address that is not a trusted proxy's. Each proxy appends whom it speaks for, so what stands left of
/// that may be anybody's invention.
fn behind_proxies(proxies: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut address = peer;
    let lines: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
    let mut named = lines.iter().rev().flat_map(|line| line.rsplit(','));
    while is_trusted(proxies, address) {
        match named.next().and_then(|text| text.trim().parse::<IpAddr>().ok()) {
            Some(next) => address = next.to_canonical(),
            None => break,
        }
    }
    address
}

/// All who come by one proxy that is not trusted share its address and its limits. Said once: whoever sends that
/// header by himself must not fill the log.
fn warn_of_unknown_proxy(peer: IpAddr) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %peer,
            "X-Forwarded-For is not believed, since the peer is not among trusted_proxies. If it is your proxy, add it \
             there: else all its clients share one rate limit"
        );
    }
}

/// Trusted unless configured otherwise: a proxy on the same machine.
pub(crate) fn loopback() -> Vec<IpNet> {
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .into_iter()
        .zip([8, 128])
        .filter_map(|(address, length)| IpNet::new(address, length).ok())
        .map(|network| network.trunc())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_say_is_believed() {
        let proxies = [loopback(), vec!["10.0.0.0/8".parse().unwrap()]].concat();
        for (peer, lines, client) in [
            ("203.0.113.1", &[] as &[&str], "203.0.113.1"),
            // Not by a proxy: what the header says is an invention.
            ("203.0.113.1", &["198.51.100.1"], "203.0.113.1"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["1.1.1.1", "198.51.100.1, 10.1.2.3"], "198.51.100.1"),
            ("127.0.0.1", &["1.1.1.1", "nonsense", "10.1.2.3"], "10.1.2.3"),
            ("127.0.0.1", &["10.9.9.9"], "10.9.9.9"),
            ("::1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:127.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            let peer = peer.parse::<IpAddr>().unwrap().to_canonical();
            let found = behind_proxies(&proxies, peer, &headers);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }
}
