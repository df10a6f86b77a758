//! A narinfo that is read is written so that it reads the same.

#![no_main]

use larder_protocol::narinfo::NarInfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(info) = NarInfo::parse(text) {
        assert_eq!(NarInfo::parse(&info.to_string()).as_ref(), Ok(&info));
    }
});
