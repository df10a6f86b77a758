//! What the command line prints: the one place that writes to standard output and error.
//!
//! Whatever others wrote may be in a text: paths, a service's answers, claims. So nothing that is printed here acts on a
//! terminal, and no line of it is one that GitHub's runner takes for a command.

use std::{
    borrow::Cow,
    fmt::Debug,
    io::{self, Write as _},
};

use larder_protocol::plain;
use tracing::field::Field;
use tracing_subscriber::{
    field::MakeExt as _,
    fmt::format::{FormatFields, Writer, debug_fn},
};

/// Prints lines to standard output. A reader that is gone (a closed pipe) is no error.
pub fn line(text: &str) {
    raw(&shown(text));
}

/// Prints lines to standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", shown(text));
}

/// Prints JSON to standard output: it says the same to a program.
///
/// # Errors
/// When the value cannot be JSON.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<()> {
    raw(&plain::json(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints a text to standard output just as it is: the runner's commands, messages between programs, scripts.
pub fn raw(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Lines that can be printed anywhere.
pub(crate) fn shown(text: &str) -> String {
    plain::lines(text).split('\n').map(no_command).collect::<Vec<_>>().join("\n")
}

/// A line that is no command to GitHub's runner: it takes those that begin with `::`, whatever blanks are before it,
/// and those that have `##[` anywhere.
fn no_command(line: &str) -> Cow<'_, str> {
    let line =
        if line.contains("##[") { Cow::Owned(line.replace("##[", "# #[")) } else { Cow::Borrowed(line) };
    let body = line.trim_start();
    if body.starts_with("::") {
        Cow::Owned(format!("{}: {}", &line[..line.len() - body.len()], &body[1..]))
    } else {
        line
    }
}

/// Fields of the log as text, of which none can begin another line or act on a terminal.
pub(crate) fn log_fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", plain::one_line(&value)),
            name => write!(writer, "{name}={}", plain::one_line(&value)),
        }
    };
    debug_fn(field).delimited(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_wrote_is_a_command() {
        for text in [
            "::error::x",
            "  ::add-mask::x",
            "\t::add-mask::x",
            "\u{a0}\u{3000}::add-mask::x",
            "a\n::error::x",
            "a\r\n::error::x",
            "x ##[error]y",
            "####[[error]y",
            ":::error::",
            "\u{1b}[2J::x",
            "\u{202e}::x",
        ] {
            let shown = shown(text);
            for line in shown.lines() {
                assert!(!line.trim_start().starts_with("::"), "{line:?}");
            }
            assert!(!shown.contains("##[") && !shown.contains(['\r', '\u{1b}', '\u{202e}']), "{shown:?}");
        }
        assert_eq!(shown("a 100 %: b::c\n  d"), "a 100 %: b::c\n  d");
    }
}
