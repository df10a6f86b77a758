//! What the log says once: it stays so until somebody changes a setting, and events come all day.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// As much is remembered.
const REMEMBERED: usize = 1000;

/// What was said already.
#[derive(Default)]
pub(super) struct Once(Mutex<HashSet<String>>);

impl Once {
    /// Whether it was said.
    pub(super) fn has(&self, what: &str) -> bool {
        self.lock().contains(what)
    }

    /// Whether it is said for the first time.
    pub(super) fn is_first(&self, what: String) -> bool {
        let mut said = self.lock();
        if said.len() >= REMEMBERED {
            said.clear();
        }
        said.insert(what)
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
