//! What stands for the values that are bound: `?` in our statements and in SQLite's, `$1`, `$2`… in PostgreSQL's.

use std::fmt::Write as _;

/// The same statement for PostgreSQL. What stands in quotes is left alone.
pub(super) fn numbered(statement: &str) -> String {
    let mut numbered = String::with_capacity(statement.len() + statement.len() / 8);
    let (mut quote, mut next) = (None, 1);
    let mut rest = statement.chars().peekable();
    while let Some(char) = rest.next() {
        match quote {
            None if char == '?' => {
                // `?1` says which one; `?` is the next.
                let mut said = String::new();
                while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                    said.push(digit);
                }
                if said.is_empty() {
                    let _ = write!(numbered, "${next}");
                    next += 1;
                } else {
                    let _ = write!(numbered, "${said}");
                }
                continue;
            }
            None if char == '\'' || char == '"' => quote = Some(char),
            Some(open) if open == char => quote = None,
            _ => {}
        }
        numbered.push(char);
    }
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_is_numbered_and_what_is_quoted_stays() {
        assert_eq!(numbered("a = ? AND b IN (?, ?)"), "a = $1 AND b IN ($2, $3)");
        assert_eq!(numbered("a = ?1 OR b = ?1 || '?~'"), "a = $1 OR b = $1 || '?~'");
        assert_eq!(numbered("'it''s ?' = ? AND \"?\" = ?"), "'it''s ?' = $1 AND \"?\" = $2");
    }
}
