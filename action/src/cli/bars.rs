//! How a push shows how far it is: bars on a terminal, a few plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::quantity::{count, show_size};
use crate::{
    output,
    progress::{Event, Progress},
};

/// What suits standard error.
pub(super) fn for_stderr() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bars::new()) } else { Box::new(Lines::default()) }
}

/// What the service has, in a sentence; `None` for other events.
fn opened(event: &Event<'_>) -> Option<String> {
    let Event::Opened { missing, reused, present, upstream, nar_bytes } = event else { return None };
    let there = reused + present;
    let upstream = if *upstream > 0 { format!(", {upstream} upstream") } else { String::new() };
    Some(format!(
        "{} to send ({}), {there} there already{upstream}",
        count(*missing, "path"),
        show_size(*nar_bytes)
    ))
}

fn retrying(what: &str, error: &str, wait: Duration) -> String {
    format!("{what} failed: {error}; trying again in {:.0} s", wait.as_secs_f64().max(1.0))
}

/// Two bars: how much is read, and how much of that is verified.
struct Bars {
    all: MultiProgress,
    read: ProgressBar,
    verified: ProgressBar,
    sent: Mutex<u64>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = |name: &'static str| {
            let style = ProgressStyle::with_template("{prefix:>9} [{bar:32}] {bytes}/{total_bytes} {msg}");
            let bar = all.add(ProgressBar::new(0).with_prefix(name));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        };
        let (read, verified) = (bar("read"), bar("verified"));
        Self { all, read, verified, sent: Mutex::new(0) }
    }

    fn say(&self, text: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = self.all.println(output::shown(text));
    }
}

impl Progress for Bars {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Opened { nar_bytes, .. } => {
                self.say(&opened(event).unwrap_or_default());
                for bar in [&self.read, &self.verified] {
                    bar.reset();
                    bar.set_length(*nar_bytes);
                }
            }
            Event::Read(bytes) => self.read.inc(*bytes),
            Event::Sent(bytes) => {
                let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                *sent += bytes;
                self.read.set_message(format!("({} sent)", show_size(*sent)));
            }
            Event::Verified { nar_size, .. } => self.verified.inc(*nar_size),
            Event::Skipped { path, reason } => self.say(&format!("skipped {}: {reason}", path.absolute())),
            Event::Retrying { what, error, wait } => self.say(&retrying(what, error, *wait)),
            Event::Committed { .. } => {}
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.read.finish_and_clear();
        self.verified.finish_and_clear();
    }
}

/// A line for what matters, and one from time to time in between.
#[derive(Default)]
struct Lines {
    state: Mutex<State>,
}

struct State {
    total: u64,
    verified: u64,
    sent: u64,
    skipped: usize,
    retries: usize,
    /// Why something was tried again last, and when that was said.
    retried: Option<(String, Instant)>,
    next: Instant,
    pause: Duration,
}

/// How long the first pause between two lines is; each is half as long again as the one before, so that a
/// push of hours writes some dozen lines.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a reason to try again counts as said: several requests fail at once when the service is gone, again and again.
const SAID: Duration = Duration::from_secs(5);
/// How many lines there are of a kind that may come for each path or request.
const MOST: usize = 20;

impl Default for State {
    fn default() -> Self {
        Self {
            total: 0,
            verified: 0,
            sent: 0,
            skipped: 0,
            retries: 0,
            retried: None,
            next: Instant::now() + PAUSE,
            pause: PAUSE,
        }
    }
}

impl Progress for Lines {
    fn event(&self, event: &Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Opened { nar_bytes, .. } => {
                (state.total, state.verified) = (*nar_bytes, 0);
                output::note(&opened(event).unwrap_or_default());
            }
            Event::Sent(bytes) => state.sent += bytes,
            Event::Verified { nar_size, .. } => state.verified += nar_size,
            Event::Skipped { path, reason } => {
                state.skipped += 1;
                if state.skipped <= MOST {
                    output::note(&format!("skipped {}: {reason}", path.absolute()));
                }
            }
            Event::Retrying { what, error, wait } => {
                let is_said = |(said, at): &(String, Instant)| said == error && at.elapsed() < SAID;
                if state.retries < MOST && !state.retried.as_ref().is_some_and(is_said) {
                    state.retries += 1;
                    state.retried = Some(((*error).to_owned(), Instant::now()));
                    output::note(&retrying(what, error, *wait));
                }
            }
            Event::Read(_) | Event::Committed { .. } => {}
        }
        // Before a push is opened, and in commands that open none, there is nothing to be so far with.
        if state.total > 0 && Instant::now() >= state.next {
            state.pause = state.pause.mul_f64(1.5);
            state.next = Instant::now() + state.pause;
            output::note(&format!(
                "{} of {} verified, {} sent",
                show_size(state.verified),
                show_size(state.total),
                show_size(state.sent)
            ));
        }
    }
}
