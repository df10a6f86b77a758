//! Recipes that are read are written as they were.

#![no_main]

use larder_protocol::recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(recipes) = recipe::decode(bytes) {
        assert_eq!(recipe::encode(&recipes), bytes);
    }
});
