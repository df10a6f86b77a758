//! What others wrote, as it may be shown to a person: on a terminal or in a log.
//!
//! Letters, digits and marks of all scripts stay. What moves a cursor, colours, hides, or turns the direction of
//! writing is written out, as in `\u{1b}`.

use std::{borrow::Cow, fmt::Write as _};

/// `text` as one line. Line ends are written as `\n`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_ascii_graphic() || c == ' ')
}

/// Several lines, with tabs where there are some.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_ascii_graphic() || matches!(c, ' ' | '\n' | '\t'))
}

/// JSON that was serialized already. It stays JSON and says the same.
pub fn json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, '\n' | '\t') || is_printable(c) {
            shown.push(c);
        } else {
            // Beyond ASCII there is nothing outside of strings.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    // GitHub's runner takes this for a command wherever in a line it stands.
    shown.replace("##[", "##\\u005b")
}

fn escape(text: &str, stays: fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(|c| stays(c) || !c.is_ascii() && is_printable(c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if stays(c) || !c.is_ascii() && is_printable(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    Cow::Owned(shown)
}

/// Whether a character shows as itself. Rust's own escaping knows what does not: control and format characters, marks
/// that stand on another character, blanks that are none.
fn is_printable(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || !c.is_ascii() && c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\r\n::set-output name=x::y\u{1b}[2J\u{9b}31m\u{202e}txt.exe\u{2066}\u{2028}\u{200b}\u{feff}\0\u{7f}";

    #[test]
    fn nothing_that_others_wrote_acts_on_a_terminal() {
        assert_eq!(
            one_line(NASTY),
            "a\\r\\n::set-output name=x::y\\u{1b}[2J\\u{9b}31m\\u{202e}txt.exe\\u{2066}\\u{2028}\\u{200b}\\u{feff}\\0\
             \\u{7f}"
        );
        assert_eq!(lines("a\u{1b}\tc\nb\r"), "a\\u{1b}\tc\nb\\r");
    }

    #[test]
    fn what_does_no_harm_stays() {
        let text = "Größe “x” 日本語 \"a\" 'b' \\ `c` <d> 100 % ✓";
        assert!(matches!(one_line(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn json_stays_what_it_says() {
        let value = serde_json::json!({ NASTY: ["##[error]", "\u{e0041}", "Größe \\ \"x\""] });
        let shown = json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{2028}', '\u{7f}', '\u{e0041}']), "{shown}");
        assert!(!shown.contains("##[") && shown.contains("Größe"), "{shown}");
    }
}
