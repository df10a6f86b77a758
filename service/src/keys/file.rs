//! What a file of keys says.

use larder_protocol::SigningKey;

use crate::clock::{from_date, to_date};

const SIGNS_UNTIL: &str = "signs-until=";

/// A signing key, and how long it signs.
#[derive(Debug, Clone)]
pub struct KeptKey {
    /// The key.
    pub key: SigningKey,
    /// The second since 1970 at which it is retired; for ever if there is none.
    pub signs_until: Option<i64>,
}

impl KeptKey {
    /// A key that signs until somebody retires it.
    pub fn new(key: SigningKey) -> Self {
        Self { key, signs_until: None }
    }

    /// Whether it signs.
    pub fn signs(&self, now: i64) -> bool {
        self.signs_until.is_none_or(|until| now < until)
    }
}

impl PartialEq for KeptKey {
    fn eq(&self, other: &Self) -> bool {
        self.key.name() == other.key.name()
            && self.key.public_key() == other.key.public_key()
            && self.signs_until == other.signs_until
    }
}

/// The problem is told without the line, which may be a secret.
pub(super) fn parse(text: &str) -> Result<Vec<KeptKey>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| parse_line(line).map_err(|why| format!("line {}: {why}", number + 1)))
        .collect()
}

fn parse_line(line: &str) -> Result<KeptKey, String> {
    let mut words = line.split_ascii_whitespace();
    let key = words.next().unwrap_or_default().parse::<SigningKey>().map_err(|error| error.to_string())?;
    let signs_until = match (words.next(), words.next()) {
        (None, _) => None,
        (Some(word), None) => {
            let date = word.strip_prefix(SIGNS_UNTIL).and_then(from_date);
            Some(date.ok_or_else(|| {
                format!("write {SIGNS_UNTIL}2027-01-31T12:00:00Z behind the key, or nothing")
            })?)
        }
        _ => return Err("too many words".to_owned()),
    };
    Ok(KeptKey { key, signs_until })
}

pub(super) fn to_text(keys: &[KeptKey]) -> String {
    let line = |kept: &KeptKey| {
        let until = kept.signs_until.map(|until| format!(" {SIGNS_UNTIL}{}", to_date(until)));
        format!("{}{}\n", kept.key.to_secret_text(), until.unwrap_or_default())
    };
    keys.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let key = |name| SigningKey::generate(name).unwrap();
        let keys = [
            KeptKey { signs_until: Some(1_790_078_400), ..KeptKey::new(key("a-1")) },
            KeptKey::new(key("a-2")),
        ];
        let text = to_text(&keys);
        assert!(text.contains(" signs-until=2026-09-22T12:00:00Z\na-2:"), "{text}");
        assert_eq!(parse(&text).unwrap(), keys);
        assert!(keys[0].signs(1_790_078_399) && !keys[0].signs(1_790_078_400) && keys[1].signs(i64::MAX));
        let secret = key("a-3").to_secret_text();
        for wrong in
            [format!("{secret} until=1"), format!("{secret} signs-until=soon"), format!("{secret} x y")]
        {
            let problem = parse(&wrong).unwrap_err();
            assert!(problem.starts_with("line 1: ") && !problem.contains(&secret[4..20]), "{problem}");
        }
    }
}
