//! The log: one line a request at info, to stderr, as text or JSON.
//!
//! Lines are handed to a thread that writes them, many at once, so that no request ever waits for whoever reads the
//! log. If that reader is so slow that 128,000 lines wait, further lines are dropped.

use std::{
    io::{self, BufWriter, IsTerminal},
    str::FromStr,
    time::Instant,
};

use axum::{body::HttpBody, extract::Request, middleware::Next, response::Response};
use tracing::Level;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{
    ConfigError, Environment,
    environment::{LOG, RUST_LOG},
};

/// What is logged unless somebody says otherwise.
const DEFAULT_FILTER: &str = "info";
/// What is shown of a request's path.
const MAX_PATH: usize = 256;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Begins to log. Lines that still wait are written when the guard is dropped.
///
/// # Errors
/// When the filter in the environment cannot be read.
pub fn init(format: LogFormat, environment: &Environment) -> Result<WorkerGuard, ConfigError> {
    let (variable, filter) = [LOG, RUST_LOG]
        .into_iter()
        .find_map(|name| environment.get(name).map(|filter| (name, filter)))
        .unwrap_or((LOG, DEFAULT_FILTER));
    let filter = EnvFilter::from_str(filter).map_err(|error| ConfigError::Value {
        key: variable.to_owned(),
        problem: format!(
            "{filter:?} cannot be read: {error}. Write for example info, or warn,larder_service=debug"
        ),
    })?;
    // The thread flushes when nothing more waits.
    let (stderr, guard) = tracing_appender::non_blocking(BufWriter::with_capacity(64 * 1024, io::stderr()));
    let lines = fmt::layer().with_writer(stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let began = match format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    // Only a test's process could have begun before.
    drop(began);
    Ok(guard)
}

/// Logs a request when its answer begins. Neither headers nor the query are shown, since secrets may be there.
pub async fn request(request: Request, next: Next) -> Response {
    if !tracing::enabled!(target: "larder_service::request", Level::INFO) {
        return next.run(request).await;
    }
    let began = Instant::now();
    let method = request.method().clone();
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let path = uri.path();
    let path = path.get(..path.floor_char_boundary(MAX_PATH)).unwrap_or(path);
    let status = response.status().as_u16();
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    match response.body().size_hint().exact() {
        Some(bytes) => {
            tracing::info!(target: "larder_service::request", %method, path, status, micros, bytes, "request");
        }
        None => tracing::info!(target: "larder_service::request", %method, path, status, micros, "request"),
    }
    response
}
