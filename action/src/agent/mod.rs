//! The agent: the process beside a job that sees its store.
//!
//! `larder agent run` is what the sibling container runs. It holds the relay's socket and its own lifetime; what
//! pushes is a child, `larder agent push`, which may die without a reader noticing. `larder agent finish` is run in
//! the container by the job's post step, and brings the order to `run` over a socket that only the container has.

pub mod finish;
mod manifest;
pub mod messages;
mod outputs;
pub mod push;
pub mod report;
pub mod run;
mod service;
pub mod trust;

pub use service::cache_url;

/// Where the agent's socket is, in a file system of the container's own.
pub const SOCKET: &str = "/run/larder/agent.sock";
/// Where the marker's directory is mounted; the marker is the file [`MARKER`] in it.
pub const MARKER_DIR: &str = "/run/larder-job";
/// The marker: when it vanishes, the job is over.
pub const MARKER: &str = "running";
