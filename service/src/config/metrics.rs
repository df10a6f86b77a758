//! `[metrics]`: where numbers are told to whoever watches the service.

use std::net::SocketAddr;

use serde::Deserialize;

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The address on which `/metrics` is answered, and nothing else; nowhere if it is left out.
    pub(super) listen: Option<SocketAddr>,
}
