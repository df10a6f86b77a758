//! What tokens look like: `larder_`, `s_` for a job's session or `t_` for what `larderd token create` made, 43 random
//! letters and digits (256 bits), and 6 more that are their checksum.
//!
//! As a regular expression, for programs that look for secrets: `larder_[st]_[0-9A-Za-z]{49}`. The checksum is the
//! CRC-32 (as in gzip) of all that stands before it, in base 62 (0-9, A-Z, a-z), padded with zeros on the left: it
//! tells a token from what only looks like one, and a mistyped token from one that is not known, without asking anybody.

/// What session tokens begin with.
pub const SESSION_PREFIX: &str = "larder_s_";
/// What tokens begin with that `larderd token create` makes.
pub const NAMED_PREFIX: &str = "larder_t_";
/// How many random characters follow.
pub const RANDOM: usize = 43;

/// How many characters the checksum has: 62⁶ is more than 2³².
const CHECKSUM: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// It does not begin like one.
    #[error("it is not a token of Larder, which begins with larder_t_ or larder_s_")]
    Other,
    /// It begins like one, but its length, a character or its checksum is wrong.
    #[error("the token was mistyped or cut short: its checksum does not hold")]
    Damaged,
}

/// A token of these random bytes; fewer than [`RANDOM`] may be usable, then there is none. Bytes above 247 are passed
/// over, so that every character is as likely as any other.
pub fn make(prefix: &str, random: impl IntoIterator<Item = u8>) -> Option<String> {
    let mut token = prefix.to_owned();
    token.extend(random.into_iter().filter(|byte| *byte < 248).take(RANDOM).map(digit));
    (token.len() == prefix.len() + RANDOM).then(|| {
        let sum = checksum(&token);
        token + &sum
    })
}

/// Whether `text` can be a token at all.
///
/// # Errors
/// If not, why not.
pub fn check(text: &str) -> Result<(), NotAToken> {
    let rest = [SESSION_PREFIX, NAMED_PREFIX].iter().find_map(|prefix| text.strip_prefix(prefix));
    let rest = rest.ok_or(NotAToken::Other)?;
    if rest.len() != RANDOM + CHECKSUM || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(NotAToken::Damaged);
    }
    let (token, sum) = text.split_at(text.len() - CHECKSUM);
    if checksum(token) == sum { Ok(()) } else { Err(NotAToken::Damaged) }
}

fn digit(number: u8) -> char {
    char::from(DIGITS[usize::from(number) % DIGITS.len()])
}

fn checksum(text: &str) -> String {
    let mut number = crc32(text.as_bytes());
    let mut sum = ['0'; CHECKSUM];
    for place in sum.iter_mut().rev() {
        *place = digit((number % 62) as u8);
        number /= 62;
    }
    sum.iter().collect()
}

/// CRC-32 as in gzip and PNG, a bit at a time: tokens are short.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let zeros = make(NAMED_PREFIX, [0; RANDOM]).unwrap();
        assert_eq!(zeros, format!("larder_t_{}{}", "0".repeat(RANDOM), checksum(&zeros[..9 + RANDOM])));
        assert_eq!(check(&zeros), Ok(()));
    }

    #[test]
    fn one_wrong_character_is_seen() {
        let token = make(SESSION_PREFIX, (0..=255u8).map(|n| n.wrapping_mul(37))).unwrap();
        assert_eq!((check(&token), token.len()), (Ok(()), 9 + 49));
        for at in 9..token.len() {
            for other in ["0", "z", "-", "_", " "] {
                let mut mistyped = token.clone();
                mistyped.replace_range(at..=at, other);
                assert_eq!(check(&mistyped).is_ok(), mistyped == token, "{mistyped}");
            }
        }
        // Two that changed places.
        let swapped = format!("{}{}{}{}", &token[..20], &token[21..22], &token[20..21], &token[22..]);
        assert_eq!(check(&swapped), Err(NotAToken::Damaged));
        // A session's is not a named one.
        assert_eq!(check(&token.replace("larder_s_", "larder_t_")), Err(NotAToken::Damaged));
        assert_eq!(check(&token[..token.len() - 1]), Err(NotAToken::Damaged));
        assert_eq!(check("ghp_0123"), Err(NotAToken::Other));
        assert_eq!(check(""), Err(NotAToken::Other));
        assert_eq!(check("larder_s_é"), Err(NotAToken::Damaged));
    }

    #[test]
    fn too_little_that_is_random_makes_no_token() {
        assert_eq!(make(SESSION_PREFIX, [255; 1000]), None);
        assert_eq!(make(SESSION_PREFIX, [1; RANDOM - 1]), None);
    }
}
