//! Where the store's size goes, and what its readers get: samples over time ([`sample`]), what they say ([`trend`],
//! [`chart`]), who holds how much ([`holders`]), and the same for Prometheus ([`metrics`]).

pub mod chart;
mod counters;
pub mod holders;
mod latency;
pub mod metrics;
mod sample;
mod schedule;
mod series;
mod thin;
mod traffic;
pub mod trend;

pub use self::{
    counters::Counters,
    latency::{Latencies, measure},
    sample::take_sample,
    thin::thin,
    traffic::TrafficCounters,
};
pub(crate) use schedule::{run, run_thinning};

use std::sync::{Arc, Mutex, PoisonError};

use crate::{caches::Caches, metadata::Sample};

/// What is counted in memory.
#[derive(Debug)]
pub struct Stats {
    /// Of readers.
    pub traffic: TrafficCounters,
    /// Of everything else.
    pub counters: Counters,
    /// How long answers took.
    pub latencies: Arc<Latencies>,
    /// The newest samples: of the store, of its caches, of repositories.
    newest: Mutex<Vec<Sample>>,
}

impl Stats {
    /// Nothing is counted yet.
    pub fn new(caches: &Caches) -> Self {
        Self {
            traffic: TrafficCounters::new(caches),
            counters: Counters::default(),
            latencies: Arc::default(),
            newest: Mutex::default(),
        }
    }
}

impl Stats {
    fn set_newest(&self, samples: Vec<Sample>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }

    fn newest(&self) -> Vec<Sample> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
