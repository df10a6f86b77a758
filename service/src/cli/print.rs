//! What a command prints. A reader that went away (`larderd … | head`) is no failure.
//!
//! What others wrote may be in a text: names, refs, claims. So nothing that is printed here acts on a terminal. That
//! each of them stays on its own line is the matter of whoever makes the lines: [`larder_protocol::plain::one_line`].

use std::io::{self, Write};

use larder_protocol::plain;

/// Lines to stdout, with their ends.
pub(super) fn out(text: &str) {
    raw(&plain::lines(text));
}

/// JSON to stdout: it says the same to a program.
pub(super) fn json(text: &str) {
    raw(&plain::json(text));
}

/// To stdout, just as it is.
pub(super) fn raw(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// A line to stderr, for what is not the command's result.
pub(super) fn complain(line: &str) {
    let mut stderr = io::stderr().lock();
    drop(writeln!(stderr, "{}", plain::lines(line)));
}
