//! An upload's index that is read is written as it was, and more bytes change nothing in it.

#![no_main]

use larder_protocol::upload::{decode_index, encode_index};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((entries, end))) = decode_index(bytes) {
        assert_eq!(encode_index(&entries), bytes[..end]);
        assert!(matches!(decode_index(&bytes[..end]), Ok(Some((again, _))) if again == entries));
        assert!(end == 0 || matches!(decode_index(&bytes[..end - 1]), Ok(None)));
    }
});
