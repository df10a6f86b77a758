//! The sink in the host's own `/nix/store`: what protected refs of a few repositories published is there when a rebuild
//! starts, signed by the cache's key, and kept by a root of the service's.

mod closure;
mod daemon;
mod fill;
mod roots;

pub(crate) use self::{fill::fill, roots::drop_unconfigured};
