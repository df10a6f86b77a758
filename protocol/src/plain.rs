//! What others wrote, as it may be shown to a person: on a terminal or in a log.

use std::borrow::Cow;

/// `text` as one line in which nothing moves a cursor, colours, turns the writing direction or hides: line ends,
/// control characters and invisible ones are written as `\n`, `\u{1b}`. All else, Unicode's letters too, stays.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_plain(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    Cow::Owned(shown)
}

/// Several lines, each as [`one_line`] shows it.
pub fn lines(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| c == '\n' || is_plain(c)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(one_line).collect::<Vec<_>>().join("\n"))
}

/// Whether a character shows as itself. Rust's own escaping knows what is not printable: control and format
/// characters, marks that stand on another character, blanks that are none.
fn is_plain(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_wrote_acts_on_a_terminal() {
        let nasty = "a\r\n::set-output name=x::y\u{1b}[2J\u{9b}31m\u{202e}txt.exe\u{2066}\u{2028}\u{200b}\u{feff}\0\u{7f}";
        let shown = one_line(nasty);
        assert_eq!(
            shown,
            "a\\r\\n::set-output name=x::y\\u{1b}[2J\\u{9b}31m\\u{202e}txt.exe\\u{2066}\\u{2028}\\u{200b}\\u{feff}\\0\
             \\u{7f}"
        );
        assert_eq!(lines("a\u{1b}c\nb"), "a\\u{1b}c\nb");
    }

    #[test]
    fn what_does_no_harm_stays() {
        let text = "Größe “x” 日本語 \"a\" 'b' \\ `c` <d> 100 % ✓";
        assert!(matches!(one_line(text), Cow::Borrowed(same) if same == text));
    }
}
