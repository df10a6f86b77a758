//! What is kept, and how the rest goes.
//!
//! Roots keep closures ([`roots`]): the last runs of each line, pins, pushes under way, what was pushed or read lately. A
//! sweep marks what they reach ([`mark`]), notes what nothing keeps, and takes what an earlier sweep found so long enough
//! ago ([`sweep`]). Where there is too little room, more goes ([`budget`]), and the sweep begins before its time
//! ([`pressure`]). Then it rewrites objects of which little is in use, and merges small ones ([`compaction`]).

mod budget;
mod compaction;
mod mark;
mod pace;
pub mod pins;
mod pressure;
mod reads;
mod report;
pub(crate) mod reserve;
mod roots;
mod schedule;
mod sweep;
mod why;

use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

pub(crate) use self::budget::{held_by_line, room};
use self::pressure::Pressure;
pub use self::{
    compaction::plan_compaction,
    mark::kept_roots,
    pressure::is_crowded,
    reads::LastReads,
    report::{BudgetReport, CacheReport, CompactionReport, Holder, SweepReport},
    roots::{kept, recent_since, run_of},
    sweep::sweep,
    why::{Fate, Plan, RoomPlan, fate, plan, plan_room},
};
pub(crate) use schedule::{run, run_sweeps};

/// What retention holds in memory.
#[derive(Debug, Default)]
pub struct Retention {
    /// When paths were last read.
    pub reads: LastReads,
    /// What the last sweep left.
    pressure: Pressure,
    /// Whether what is set aside for a full disk was let go.
    reserve_spent: AtomicBool,
    /// One sweep at a time.
    sweeping: Mutex<()>,
}
