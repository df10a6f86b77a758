//! What a push tells of itself while it runs.

use std::time::Duration;

use larder_protocol::StorePath;

/// Something that happened in a push.
#[derive(Debug)]
pub enum Event<'a> {
    /// The service said what it has.
    Opened {
        /// Paths whose contents are wanted.
        missing: usize,
        /// Paths that it lacks but whose contents it has.
        reused: usize,
        /// Paths that it has.
        present: usize,
        /// Paths that an upstream has.
        upstream: usize,
        /// The NARs' bytes of the missing paths.
        nar_bytes: u64,
    },
    /// So many more bytes of NARs were read.
    Read(u64),
    /// So many more bytes of frames are stored at the service.
    Sent(u64),
    /// The service has verified a path's NAR.
    Verified {
        /// The path.
        path: &'a StorePath,
        /// Its NAR's length in bytes.
        nar_size: u64,
    },
    /// A path, or what needs it, cannot be pushed.
    Skipped {
        /// The path.
        path: &'a StorePath,
        /// Why, as a sentence.
        reason: &'a str,
    },
    /// A request failed and is made again.
    Retrying {
        /// What was tried.
        what: &'a str,
        /// How it failed.
        error: &'a str,
        /// How long until the next try.
        wait: Duration,
    },
    /// All is published.
    Committed {
        /// How many paths became visible.
        published: u64,
    },
}

/// Who wants to know. Called from the async task that pushes: it must not block.
pub trait Progress: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: &Event<'_>);
}

/// Nobody wants to know.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
