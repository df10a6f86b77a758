//! The NAR checker says the same of the same bytes in whatever pieces they come.

#![no_main]

use larder_protocol::nar::{NarChecker, NarError};
use libfuzzer_sys::fuzz_target;

fn check<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), NarError> {
    let mut checker = NarChecker::default();
    pieces.try_for_each(|piece| checker.feed(piece))?;
    checker.finish()
}

fuzz_target!(|input: (u8, &[u8])| {
    let (len, nar) = input;
    let whole = check(std::iter::once(nar));
    assert_eq!(check(nar.chunks(usize::from(len).max(1))), whole);
    if let Err(error) = whole {
        assert!(error.offset <= nar.len() as u64);
    }
});
