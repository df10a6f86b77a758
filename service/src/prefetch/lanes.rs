//! Who goes first: while somebody waits, what nobody waits for begins nothing new.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::queue::Priority;

/// How many prefetches of each priority are under way.
#[derive(Debug, Clone)]
pub(super) struct Lanes(Arc<watch::Sender<BTreeMap<Priority, usize>>>);

/// A prefetch that is under way.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Lanes,
    priority: Priority,
}

impl Default for Lanes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Lanes {
    /// Begins a prefetch. As long as this lives, those of lower priority step back.
    pub(super) fn enter(&self, priority: Priority) -> Lane {
        self.0.send_modify(|under_way| *under_way.entry(priority).or_default() += 1);
        Lane { lanes: self.clone(), priority }
    }
}

impl Lane {
    /// Waits until nothing of a higher priority is under way.
    pub(crate) async fn turn(&self) {
        let mut under_way = self.lanes.0.subscribe();
        // It fails only if there are no lanes any more, and we hold them.
        let _ = under_way.wait_for(|under_way| self.is_first_of(under_way)).await;
    }

    /// Whether nothing of a higher priority is under way.
    pub(super) fn is_first(&self) -> bool {
        self.is_first_of(&self.lanes.0.borrow())
    }

    fn is_first_of(&self, under_way: &BTreeMap<Priority, usize>) -> bool {
        under_way.keys().next_back().is_none_or(|first| *first <= self.priority)
    }

    /// Stands aside while it waits for another prefetch, which may be of lower priority.
    pub(super) async fn aside<T>(&self, wait: impl Future<Output = T>) -> T {
        let back = Aside(self);
        self.leave();
        let waited = wait.await;
        drop(back);
        waited
    }

    fn leave(&self) {
        self.lanes.0.send_modify(|under_way| {
            if let Some(count) = under_way.get_mut(&self.priority) {
                *count -= 1;
                if *count == 0 {
                    under_way.remove(&self.priority);
                }
            }
        });
    }
}

/// Comes back, also if it is cancelled while it waits.
struct Aside<'a>(&'a Lane);

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        let priority = self.0.priority;
        self.0.lanes.0.send_modify(|under_way| *under_way.entry(priority).or_default() += 1);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_steps_back() {
        let lanes = Lanes::default();
        let nightly = lanes.enter(Priority::SCHEDULE);
        assert!(nightly.turn().now_or_never().is_some());
        let waited_for = lanes.enter(Priority::WAITED);
        assert!(nightly.turn().now_or_never().is_none());
        assert!(waited_for.turn().now_or_never().is_some());
        // Who waits for another keeps nobody waiting.
        let (fetched, waits) = tokio::sync::oneshot::channel::<()>();
        let waiting = waited_for.aside(waits);
        let mut waiting = Box::pin(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(nightly.turn().now_or_never().is_some());
        fetched.send(()).unwrap();
        waiting.await.unwrap();
        assert!(nightly.turn().now_or_never().is_none());
        drop(waited_for);
        assert!(nightly.turn().now_or_never().is_some());
    }
}
