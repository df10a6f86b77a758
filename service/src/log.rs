//! The log: one line a request at info, to stderr, as text or JSON.
//!
//! Lines are handed to a thread that writes them, many at once, so that no request ever waits for whoever reads the
//! log. If that reader is so slow that 128,000 lines wait, further lines are dropped.

use std::{
    fmt::Debug,
    io::{self, BufWriter, IsTerminal},
    str::FromStr,
    time::Instant,
};

use axum::{body::HttpBody, extract::Request, middleware::Next, response::Response};
use larder_protocol::plain::one_line;
use tracing::{Level, field::Field};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        self,
        format::{FormatFields, Writer, debug_fn},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{
    ConfigError, Environment,
    environment::{LOG, RUST_LOG},
};

/// What the service logs unless somebody says otherwise.
pub const SERVICE: &str = "info";
/// What a command logs: what it cannot say in its answer.
pub const COMMAND: &str = "warn";
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

/// Begins to log, by this filter unless the environment has another. Lines that still wait are written when the guard is dropped.
///
/// # Errors
/// When the filter in the environment cannot be read.
pub fn init(
    format: LogFormat,
    environment: &Environment,
    filter: &'static str,
) -> Result<WorkerGuard, ConfigError> {
    let (variable, filter) = [LOG, RUST_LOG]
        .into_iter()
        .find_map(|name| environment.get(name).map(|filter| (name, filter)))
        .unwrap_or((LOG, filter));
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
        LogFormat::Text => {
            let lines = lines.with_ansi(io::stderr().is_terminal()).fmt_fields(plain_fields());
            registry.with(lines).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    // Only a test's process could have begun before.
    drop(began);
    Ok(guard)
}

/// Fields as text, of which none can begin another line or act on a terminal, whoever wrote what it says.
fn plain_fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", one_line(&value)),
            name => write!(writer, "{name}={}", one_line(&value)),
        }
    };
    debug_fn(field).delimited(" ")
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_others_wrote() {
        let written = Written::default();
        let writer = written.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).with_ansi(false).with_target(false);
        let subscriber = tracing_subscriber::registry().with(lines.fmt_fields(plain_fields()));
        let nasty = "x\n2026-01-01T00:00:00Z INFO granted\r\u{1b}[2J\u{202e}\u{9b}1A";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(display = %nasty, debug = ?nasty, plain = nasty, number = 7, "said {nasty}");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.contains(" INFO said x\\n2026-") && text.contains(" display=x\\n2026-"), "{text}");
        assert!(text.contains(" plain=\"x\\n2026-") && text.contains(" number=7"), "{text}");
    }
}
