//! A cache's keys as a running service has them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use larder_protocol::{PublicKey, SigningKey, api::CacheName};

use super::{KeptKey, KeyDir, KeyError};
use crate::clock::Clock;

/// How soon a running service takes up what was changed, in seconds.
pub const TAKEN_UP_WITHIN: i64 = 5;

/// The keys that sign now.
#[derive(Debug)]
pub struct ActiveKeys {
    /// They, the oldest first; at least one.
    pub keys: Vec<SigningKey>,
    /// Another number whenever they are others: what was signed before is to be signed anew.
    pub generation: u64,
}

impl ActiveKeys {
    /// The keys by which readers check.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(SigningKey::public_key).collect()
    }

    /// The key that signs what has one signature.
    pub fn newest(&self) -> Option<&SigningKey> {
        self.keys.last()
    }
}

/// A cache's keys: those of its file, which is looked at again from time to time.
#[derive(Debug)]
pub struct Keyring {
    directory: KeyDir,
    cache: CacheName,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    kept: Vec<KeptKey>,
    active: Arc<ActiveKeys>,
    seen: Option<Stamp>,
    looked_at: i64,
}

/// What tells a file from one that took its place.
type Stamp = (u64, u64, i64, i64);

impl Keyring {
    /// The keys of a cache; a new one of that name if it has none.
    ///
    /// # Errors
    /// When they cannot be read or made, others can read them, or none of them signs any more.
    pub fn open(directory: KeyDir, cache: &CacheName, name: &str, clock: &Clock) -> Result<Self, KeyError> {
        let file = directory.file(cache);
        // Before it is read: what is changed meanwhile is then seen the next time.
        let seen = stamp(&file);
        let kept = directory.load_or_make(cache, name)?;
        let now = clock.now();
        let keys = signing(&kept, now);
        if keys.is_empty() {
            return Err(KeyError::AllRetired { file, cache: cache.clone() });
        }
        let active = Arc::new(ActiveKeys { keys, generation: 0 });
        let state = Mutex::new(State { kept, active, seen, looked_at: now });
        Ok(Self { directory, cache: cache.clone(), clock: clock.clone(), state })
    }

    /// The keys that sign now. Looks at the file at most every few seconds: a few microseconds then.
    pub fn active(&self) -> Arc<ActiveKeys> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        // Also when the clock was set back.
        if !(0..TAKEN_UP_WITHIN).contains(&now.saturating_sub(state.looked_at)) {
            state.looked_at = now;
            self.look_again(&mut state);
            state.choose(now, &self.cache);
        }
        state.active.clone()
    }

    /// A file that cannot be used any more changes nothing: readers had better have the old keys than none.
    fn look_again(&self, state: &mut State) {
        let seen = stamp(&self.directory.file(&self.cache));
        if seen == state.seen {
            return;
        }
        state.seen = seen;
        match self.directory.load(&self.cache) {
            Ok(kept) if !kept.is_empty() => state.kept = kept,
            Ok(_) => {
                tracing::error!(cache = %self.cache, "the signing keys' file is gone; the keys stay in use")
            }
            Err(error) => {
                tracing::error!(%error, cache = %self.cache, "the signing keys' file is wrong; the old keys stay in use");
            }
        }
    }
}

impl State {
    fn choose(&mut self, now: i64, cache: &CacheName) {
        let keys = signing(&self.kept, now);
        let public = |keys: &[SigningKey]| keys.iter().map(SigningKey::public_key).collect::<Vec<_>>();
        if keys.is_empty() {
            // The commands do not let it come to this; an edited file may. Unsigned paths would help nobody.
            tracing::error!(%cache, "all signing keys are retired; the last ones stay in use");
        } else if public(&keys) != public(&self.active.keys) {
            let names: Vec<&str> = keys.iter().map(SigningKey::name).collect();
            tracing::info!(%cache, keys = ?names, "signing with other keys from now on");
            self.active = Arc::new(ActiveKeys { keys, generation: self.active.generation + 1 });
        }
    }
}

fn signing(kept: &[KeptKey], now: i64) -> Vec<SigningKey> {
    kept.iter().filter(|kept| kept.signs(now)).map(|kept| kept.key.clone()).collect()
}

fn stamp(file: &PathBuf) -> Option<Stamp> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}
