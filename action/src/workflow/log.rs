//! The step's log: plain lines, and the workflow commands that the runner reads in it.
//!
//! What others wrote (paths, a service's answers) stays on its line and within the command that it is told by.

use larder_protocol::plain::{lines, one_line};

use crate::output;

/// Prints a line.
pub fn line(text: &str) {
    output::line(&one_line(text));
}

/// Begins a group of lines that GitHub folds.
pub fn group(title: &str) {
    output::raw(&format!("::group::{}", escape(&one_line(title))));
}

/// Ends the group.
pub fn end_group() {
    output::raw("::endgroup::");
}

/// Something worth knowing, shown beside the job.
pub fn notice(text: &str) {
    output::raw(&format!("::notice title=Larder::{}", escape(text)));
}

/// Something that did not work, and does not fail the job.
pub fn warning(text: &str) {
    output::raw(&format!("::warning title=Larder::{}", escape(text)));
}

/// Something that fails the job.
pub fn error(text: &str) {
    output::raw(&format!("::error title=Larder::{}", escape(text)));
}

/// Has the runner replace `secret` by `***` in every log from now on.
pub fn mask(secret: &str) {
    output::raw(&format!("::add-mask::{}", encode(secret)));
}

/// What an annotation says, on as many lines as it has.
fn escape(text: &str) -> String {
    encode(&lines(text))
}

/// A command's text, in which the runner decodes these three.
fn encode(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_one_command_whatever_it_says() {
        let nasty = "100 %\r\n::set-output name=a::b%0A\u{1b}[2J\u{202e}";
        let told = escape(nasty);
        assert!(!told.contains(['\n', '\r', '\u{1b}', '\u{202e}']), "{told}");
        assert_eq!(told, "100 %25\\r%0A::set-output name=a::b%250A\\u{1b}[2J\\u{202e}");
        assert_eq!(encode("a%b\r\nc"), "a%25b%0D%0Ac", "a secret is masked as it is");
    }
}
