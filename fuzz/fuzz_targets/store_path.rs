//! Store paths, hashes, keys and names are written as they were read.

#![no_main]

use larder_protocol::{NarHash, PublicKey, Signature, SigningKey, StorePath, api::CacheName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(path) = text.parse::<StorePath>() {
        assert_eq!(path.to_string(), text);
        assert!(!text.contains('/') && !text.contains('\0'));
    }
    if let Ok(path) = StorePath::from_absolute(text) {
        assert_eq!(path.absolute(), text);
    }
    if let Ok(hash) = text.parse::<NarHash>() {
        assert_eq!(hash.to_string().parse::<NarHash>().ok(), Some(hash));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(signature) = text.parse::<Signature>() {
        assert_eq!(signature.to_string(), text);
    }
    if let Ok(key) = text.parse::<SigningKey>() {
        assert_eq!(key.to_secret_text(), text.trim_end());
    }
    if let Ok(name) = text.parse::<CacheName>() {
        assert_eq!(name.as_str(), text);
    }
});
