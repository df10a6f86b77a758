//! What Larder's client and service must agree on, and nothing else: store paths, NAR, narinfo,
//! signatures, chunks, recipes, the API's types.
//!
//! Pure: no network, no database, no async.

pub mod api;
pub mod base32;
pub mod chunk;
pub mod content_address;
pub mod envelope;
pub mod flake_lock;
pub mod manifest;
pub mod nar;
pub mod nar_hash;
pub mod narinfo;
pub mod plain;
pub mod prefetch;
pub mod provenance;
pub mod quantity;
pub mod recipe;
pub mod signature;
pub mod store_path;
pub mod token;
pub mod upload;

pub use chunk::ChunkId;
pub use content_address::ContentAddress;
pub use nar_hash::NarHash;
pub use signature::{PublicKey, Signature, SigningKey};
pub use store_path::{StorePath, StorePathHash};

/// Implements `Serialize` and `Deserialize` by way of `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use serde_as_text;
