//! The step's log: plain lines, and the workflow commands that the runner reads in it.
//!
//! The runner takes any line that begins with `::`, or has `##[` in it, as a command. What others wrote
//! (paths, a service's answers) therefore goes through [`plain`] or [`escape`].

use crate::output;

/// Prints a line.
pub fn line(text: &str) {
    output::line(&plain(text));
}

/// Begins a group of lines that GitHub folds.
pub fn group(title: &str) {
    output::line(&format!("::group::{}", escape(&plain(title))));
}

/// Ends the group.
pub fn end_group() {
    output::line("::endgroup::");
}

/// Something worth knowing, shown beside the job.
pub fn notice(text: &str) {
    output::line(&format!("::notice title=Larder::{}", escape(text)));
}

/// Something that did not work, and does not fail the job.
pub fn warning(text: &str) {
    output::line(&format!("::warning title=Larder::{}", escape(text)));
}

/// Something that fails the job.
pub fn error(text: &str) {
    output::line(&format!("::error title=Larder::{}", escape(text)));
}

/// Has the runner replace `secret` by `***` in every log from now on.
pub fn mask(secret: &str) {
    output::line(&format!("::add-mask::{}", escape(secret)));
}

/// A command's text, in which the runner decodes these three.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// One line that is no command and moves no cursor.
fn plain(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.replace("##[", "# #[");
    let body = text.trim_start();
    if body.starts_with("::") {
        format!("{}: {}", &text[..text.len() - body.len()], &body[1..])
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_wrote_is_a_command() {
        for text in
            ["::error::x", "  ::add-mask::x", "a\n::error::x", "x ##[error]y", ":::error::", "\u{1b}[2J::x"]
        {
            let line = plain(text);
            assert!(!line.trim_start().starts_with("::"), "{line:?}");
            assert!(!line.contains("##[") && !line.contains('\n') && !line.contains('\u{1b}'), "{line:?}");
        }
        assert_eq!(plain("  12 paths, 100 %"), "  12 paths, 100 %");
        assert_eq!(escape("50 %\r\n::x"), "50 %25%0D%0A::x");
    }
}
