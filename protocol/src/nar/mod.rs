//! Nix's archive of a path's contents (`libutil/archive.cc`).

mod check;
mod dump;
mod write;

pub use check::{NarChecker, NarError};
pub use dump::{DumpError, dump};
pub use write::{ContentsError, NarWriter};
