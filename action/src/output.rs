//! What the command line prints: the one place that writes to standard output and error.

use std::io::{self, Write as _};

/// Prints a line to standard output. A reader that is gone (a closed pipe) is no error.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line to standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
