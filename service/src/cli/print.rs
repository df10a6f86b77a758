//! What a command prints. A reader that went away (`larderd … | head`) is no failure.

use std::io::{self, Write};

/// To stdout, as it is.
pub(super) fn out(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// A line to stderr, for what is not the command's result.
pub(super) fn complain(line: &str) {
    let mut stderr = io::stderr().lock();
    drop(writeln!(stderr, "{line}"));
}
