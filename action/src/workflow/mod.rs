//! GitHub's side: what the runner tells an action, what the action tells the runner, and its two steps.

pub mod environment;
pub mod files;
pub mod inputs;
pub mod log;
pub mod main;
pub mod nix_config;
pub mod post;
pub mod state;
pub mod summary;
pub mod wording;

use tokio::signal::unix::{SignalKind, signal};

/// Waits until the process is told to end. The runner sends SIGINT, SIGTERM 7.5 s later, and ends the container
/// 2.5 s after that; the first process of a container has to listen for them, or they do nothing.
pub async fn stopped() {
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
