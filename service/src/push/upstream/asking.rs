//! Asking one upstream about many paths, side by side and within a time.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use larder_protocol::StorePathHash;

use crate::metadata::{Among, UpstreamPath};

/// How many questions are under way at once.
const PARALLEL: usize = 64;
/// How long all the questions of one push to one upstream may take, and any one of them. If it answered none by then,
/// what it may have is pushed; if it answered some, the client comes again.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The same where nothing is remembered for the next try.
const PATIENCE_AT_ONCE: Duration = Duration::from_secs(40);
/// An upstream of which so many questions failed, and none was answered, is asked nothing more for a while.
const FAILURES: usize = 8;

/// An upstream's answer about one path.
pub(super) enum Answer {
    Signed(UpstreamPath),
    Absent,
    None,
}

/// What came of asking an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// All that it answers. For what is still open it gave no answer when that was asked again and nothing else.
    All,
    /// Something, when the time was over.
    Some,
    /// Nothing at all.
    Nothing,
}

pub(super) fn patience(among: Among) -> Duration {
    match among {
        Among::Namespace(_) => PATIENCE,
        Among::Push(_) => PATIENCE_AT_ONCE,
    }
}

/// Asks about all that is `open`, and again about what was not answered, until a turn brings no answer. Leaves what has
/// none.
pub(super) async fn ask_all<F: Future<Output = (StorePathHash, Answer)>>(
    open: &mut HashSet<StorePathHash>,
    patience: Duration,
    put: impl Fn(StorePathHash) -> F,
    mut note: impl FnMut(StorePathHash, Answer),
) -> Heard {
    let mut answered = false;
    let turns = async {
        while !open.is_empty() {
            let questions: Vec<F> = open.iter().map(|hash| put(*hash)).collect();
            let mut answers = stream::iter(questions).buffer_unordered(PARALLEL);
            let (mut failures, before) = (0, open.len());
            while let Some((hash, answer)) = answers.next().await {
                if matches!(answer, Answer::None) {
                    failures += 1;
                    if failures >= FAILURES && !answered {
                        return;
                    }
                    continue;
                }
                answered = true;
                open.remove(&hash);
                note(hash, answer);
            }
            if open.len() == before {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(patience, turns).await.is_ok();
    match (in_time, answered) {
        _ if open.is_empty() => Heard::All,
        (_, false) => Heard::Nothing,
        (true, true) => Heard::All,
        (false, true) => Heard::Some,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::pending,
    };

    use super::*;

    fn hashes(count: usize) -> Vec<StorePathHash> {
        (0..count).map(|number| format!("{number:0>32}").parse().unwrap()).collect()
    }

    /// Asks by `answer`, and says what came of it, what is still open, and how many questions were put.
    async fn ask<F: Future<Output = Answer>>(
        open: &mut HashSet<StorePathHash>,
        answer: impl Fn(StorePathHash) -> F,
    ) -> (Heard, usize) {
        let put = Cell::new(0);
        let answer = |hash| {
            put.set(put.get() + 1);
            let answer = answer(hash);
            async move { (hash, answer.await) }
        };
        let noted = RefCell::new(HashSet::new());
        let all = open.len();
        let heard = ask_all(open, PATIENCE, answer, |hash, _| assert!(noted.borrow_mut().insert(hash))).await;
        assert_eq!(noted.borrow().len() + open.len(), all);
        (heard, put.get())
    }

    /// Many questions in whose crowd one is not come to, in time that is counted and does not pass.
    #[tokio::test(start_paused = true)]
    async fn what_the_time_does_not_suffice_for_is_asked_the_next_time() {
        // 64 at once, two seconds each: some 320 in one try.
        let mut open: HashSet<StorePathHash> = hashes(1000).into_iter().collect();
        let slow = async |_| {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Answer::Absent
        };
        let mut tries = 1;
        loop {
            let before = open.len();
            match ask(&mut open, slow).await.0 {
                Heard::All => break,
                heard => assert_eq!(heard, Heard::Some),
            }
            assert!(open.len() < before, "each try goes on from where the last one was");
            tries += 1;
        }
        assert!(open.is_empty() && (2..=5).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_answered_is_in_the_end_asked_alone_and_holds_up_no_push() {
        let all = hashes(100);
        let mut open: HashSet<StorePathHash> = all.iter().copied().collect();
        let hangs = async |hash| if hash == all[7] { pending().await } else { Answer::Absent };
        assert_eq!(ask(&mut open, hangs).await.0, Heard::Some);
        assert_eq!(open, HashSet::from([all[7]]));
        assert_eq!(ask(&mut open, hangs).await, (Heard::Nothing, 1));

        // What fails is asked a second time, and that is all.
        let mut open: HashSet<StorePathHash> = all.iter().copied().collect();
        let fails = async |hash| if hash == all[7] { Answer::None } else { Answer::Absent };
        let told = ask(&mut open, fails).await;
        assert_eq!(open, HashSet::from([all[7]]));
        assert!(matches!(told, (Heard::All, 101)), "{told:?}");
        let mut open: HashSet<StorePathHash> = all.iter().copied().collect();
        let (heard, _) = ask(&mut open, async |_| Answer::None).await;
        assert_eq!((heard, open.len()), (Heard::Nothing, 100));
    }
}
