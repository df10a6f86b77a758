//! The audit log: who was granted what, who was refused, what came and what went.
//!
//! What happened is an [`Event`]; with the cache and with [`Who`] did it, it is an [`Entry`]. An entry goes to the
//! database, where `larderd audit` finds it, and to the log, as one line of the target `larder_service::audit`. Two
//! ways lead there:
//!
//! - Whatever gives power or changes what is there (a grant, a token, a rule, a published or deleted path) is written
//!   in the transaction that does it, by `metadata::audit::record`: if it cannot be recorded, it does not happen.
//! - Whatever is refused goes through [`Audit::record`], which never waits: refusing costs the one writer of the
//!   database next to nothing, however many are refused. If such an entry cannot be written, it was refused all the
//!   same, and the log has it.
//!
//! A part of the service that has something new to say adds a variant to [`Event`] and to [`Kind`] and calls one of the
//! two, with `Entry::in_cache(cache, who, event)`. Handlers make [`Who`] from the grant and the client's address;
//! commands of `larderd` say [`Who::operator`]; what the service does by itself is of `Who::default()`.
//!
//! No entry holds a secret. Refusals are what strangers can cause in any number: those of one kind and one identity
//! within one hour share a row that counts them, and when rows become too many, they are the first to go.

mod entry;
mod event;
mod recorder;

pub use self::{
    entry::{Entry, Who},
    event::{Event, Kind},
    recorder::Audit,
};
