//! `public_url`: the URL by which workflows and readers name the service.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use url::{Host, Url};

/// An origin: scheme, host and port. Its text is also the audience of the ID tokens that are taken.
///
/// https, or http on loopback: a token that travels in the clear is anybody's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicUrl {
    origin: String,
    host: String,
    loopback: bool,
}

/// What is no public URL.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} cannot be the service's public URL: {why}")]
pub struct InvalidPublicUrl {
    url: String,
    why: &'static str,
}

impl PublicUrl {
    /// `https://host` or `https://host:port`, without a slash at its end.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The host alone.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }
}

/// Whether a URL's host is this machine. Names other than `localhost` are not looked up.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let refuse = |why| InvalidPublicUrl { url: text.to_owned(), why };
        let url =
            Url::parse(text).map_err(|_| refuse("write it whole, for example https://cache.example.org"))?;
        let loopback = is_loopback(&url);
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => {
                return Err(refuse(
                    "tokens would travel in the clear. Write https://, and put a proxy that speaks TLS in front",
                ));
            }
            _ => return Err(refuse("write https://")),
        }
        let Some(host) = url.host_str() else { return Err(refuse("it has no host")) };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("leave user and password out"));
        }
        if !matches!(url.path(), "" | "/") {
            return Err(refuse("leave the path out: Larder needs a host name (or port) of its own"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("leave what follows ? or # out"));
        }
        Ok(Self { origin: url.origin().ascii_serialization(), host: host.to_owned(), loopback })
    }
}

impl TryFrom<String> for PublicUrl {
    type Error = InvalidPublicUrl;

    fn try_from(text: String) -> Result<Self, InvalidPublicUrl> {
        text.parse()
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}
