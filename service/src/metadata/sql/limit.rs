//! How long a server is waited for. A machine that vanishes closes no connection, and whoever has sent it everything hears
//! of that no more.

use std::{io::ErrorKind, time::Duration};

use sqlx::Error;

/// What a server may take for one statement: those of a sweep look at many rows.
pub(in super::super) const STATEMENT_WITHIN: Duration = Duration::from_secs(300);
/// After so long it would have said that the statement took too long.
pub(in super::super) const ANSWER_WITHIN: Duration = Duration::from_secs(310);

/// Waits for an answer; no longer than this, if there is a limit.
pub(in super::super) async fn within<T, E: From<Error>>(
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(limit) = limit else { return answer.await };
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(Error::Io(ErrorKind::TimedOut.into()).into()))
}
