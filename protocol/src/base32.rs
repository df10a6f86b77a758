//! Nix's base-32: digits without `e`, `o`, `u`, `t`, the last digit first, its bits from the
//! least significant end (`libutil/hash.cc`, `printHash32`).

const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The digit that each byte stands for; 0xff where it is none.
const VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut digit = 0u8;
    while digit < 32 {
        values[DIGITS[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};

/// The digit of Nix's base-32 that `byte` stands for; 0xff if it is none.
#[inline]
pub(crate) fn digit_value(byte: u8) -> u8 {
    VALUES[usize::from(byte)]
}

/// Whether `byte` is a digit of Nix's base-32.
#[inline]
pub fn is_digit(byte: u8) -> bool {
    digit_value(byte) != 0xff
}

/// The number of digits that `bytes` bytes take.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes `bytes` into `text`, which must be [`encoded_len`] long.
pub fn encode_into(bytes: &[u8], text: &mut [u8]) {
    debug_assert_eq!(text.len(), encoded_len(bytes.len()));
    let digits = text.len();
    for (position, out) in text.iter_mut().enumerate() {
        let bit = (digits - 1 - position) * 5;
        let (byte, shift) = (bit / 8, bit % 8);
        let low = u16::from(bytes[byte]);
        let high = bytes.get(byte + 1).map_or(0, |b| u16::from(*b));
        *out = DIGITS[usize::from(((low | (high << 8)) >> shift) & 0x1f)];
    }
}

/// `bytes` in Nix's base-32.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = vec![0; encoded_len(bytes.len())];
    encode_into(bytes, &mut text);
    text.into_iter().map(char::from).collect()
}

/// The `N` bytes that `text` stands for; `None` if it has another length, a byte that is no digit,
/// or bits beyond the last byte.
pub fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != encoded_len(N) {
        return None;
    }
    let mut bytes = [0u8; N];
    for (position, digit) in text.iter().rev().enumerate() {
        let value = digit_value(*digit);
        if value == 0xff {
            return None;
        }
        let bit = position * 5;
        let (byte, shift) = (bit / 8, bit % 8);
        let spread = u16::from(value) << shift;
        let [low, high] = spread.to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return None,
            None => {}
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_nix_hash() {
        // nix-hash --to-base32 --type sha256 e3b0c442…b855 (the empty string's hash)
        let empty: [u8; 32] = data_encoding::HEXLOWER
            .decode(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            .unwrap()
            .try_into()
            .unwrap();
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(encode(&empty), text);
        assert_eq!(decode::<32>(text.as_bytes()), Some(empty));
    }

    #[test]
    fn refuses_what_is_no_digit_too_long_or_overflows() {
        assert_eq!(decode::<20>(b"e0000000000000000000000000000000"), None);
        assert_eq!(decode::<20>(b"0000000000000000000000000000000"), None);
        assert_eq!(decode::<32>(b"zmdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"), None);
    }
}
