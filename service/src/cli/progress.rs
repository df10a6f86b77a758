//! How far a long command is.

use std::io::{IsTerminal as _, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use larder_protocol::quantity::show_size;

use super::print;

/// A bar on a terminal; a line for every tenth otherwise.
pub(super) struct Progress {
    done: &'static str,
    bar: Option<ProgressBar>,
    tenths: u64,
}

impl Progress {
    /// `done` says what becomes of the bytes: "verified".
    pub(super) fn new(done: &'static str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self { done, bar, tenths: 0 }
    }

    /// So many bytes of so many.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        let tenths = done.saturating_mul(10).checked_div(total).unwrap_or(0);
        if tenths > self.tenths {
            self.tenths = tenths;
            print::complain(&format!("{} % of {} are {}", tenths * 10, show_size(total), self.done));
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
