//! Deliveries that GitHub has and the service has not, because it was away, or said that it was busy: GitHub sends none
//! again by itself, so the service asks for them.

use std::collections::{HashMap, HashSet};

use super::{
    app::{Needs, Place},
    github::{ForgeError, GitHub},
    hooks::{Attempt, Covered, Hook},
};
use crate::{
    Service,
    metadata::{AskedFor, MetadataError, Unread, WatchedHook},
    queue::Performed,
};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// Seconds from one look to the next.
const EVERY: i64 = 5 * MINUTE;
/// The same while more is missing than was asked for.
const SOON: i64 = MINUTE;
/// How long an Enterprise Server keeps deliveries, in seconds. GitHub itself keeps them for three days: its list ends there.
const KEPT: i64 = 7 * 24 * HOUR;
/// A delivery that is younger may be under way.
const UNDER_WAY: i64 = MINUTE;
/// One delivery is asked for at most once in so many seconds.
const ASK_EVERY: i64 = HOUR;
/// And so often in all: of those that nobody took, and of those that were refused.
const MOST_TIMES: u64 = 24;
const MOST_TIMES_REFUSED: u64 = 2;
/// What was looked through once is looked through again for so long: what was asked for comes as something new.
const OVERLAP: i64 = HOUR;
/// How many are asked for at one look: GitHub takes 80 writes a minute.
const MOST_ASKED: usize = 60;
/// How many pages of a hundred are read of one webhook at one look; the next one goes on from there.
const MOST_PAGES: usize = 200;
/// In how many repositories and organisations webhooks are looked for at one look; at the next one in others.
const MOST_PLACES: usize = 100;
/// After so many questions in a row without an answer nothing more is asked at one look.
const MOST_UNANSWERED: usize = 3;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Looks for missed deliveries and asks for them. When to look again.
pub(crate) async fn ask_for_missed(service: &Service) -> Result<Performed, MetadataError> {
    if service.config.webhooks.is_empty() {
        return Ok(Performed::Done);
    }
    if !service.github.has_app() {
        let why = ForgeError::NoApp(Needs::RepositoryHooks);
        tracing::info!(%why, "missed deliveries are not asked for");
        return Ok(Performed::Done);
    }
    let now = service.clock.now();
    let mut look = Look {
        service,
        now,
        left: MOST_ASKED,
        next: now.saturating_add(EVERY),
        unanswered: 0,
        has_own: false,
    };
    match look.everywhere().await {
        Ok(()) => {}
        Err(Failure::Metadata(error)) => return Err(error),
        Err(Failure::Forge(error)) => {
            tracing::warn!(%error, "GitHub could not be asked for missed deliveries");
        }
    }
    service.metadata.forget_missed(now.saturating_sub(2 * KEPT)).await?;
    Ok(Performed::Again(look.next))
}

struct Look<'a> {
    service: &'a Service,
    now: i64,
    /// How many may still be asked for.
    left: usize,
    /// When to look again.
    next: i64,
    /// How many questions in a row had no answer.
    unanswered: usize,
    /// Whether the App's own webhook points here.
    has_own: bool,
}

impl Look<'_> {
    async fn everywhere(&mut self) -> Result<(), Failure> {
        let Service { github, config, .. } = self.service;
        let hook = github.app_hook(config).await;
        if let Some(Some(hook)) = self.heed(hook.map_err(Failure::from))? {
            self.has_own = true;
            let looked = self.through(github, &hook).await;
            self.heed(looked)?;
        }
        // What the App may is the same in all repositories of an account.
        let mut refused = HashSet::new();
        for place in self.places().await? {
            let owner = place.name().split_once('/').map(|(owner, _)| owner.to_owned());
            if owner.as_ref().is_some_and(|owner| refused.contains(owner)) {
                continue;
            }
            let hooks = github.hooks_at(&place, config).await;
            if matches!(hooks, Err(ForgeError::NotPermitted { .. })) {
                refused.extend(owner);
            }
            for hook in self.heed(hooks.map_err(Failure::from))?.unwrap_or_default() {
                let looked = self.through(github, &hook).await;
                self.heed(looked)?;
            }
        }
        Ok(())
    }

    /// What came of a question about one place. What was refused there says nothing of other places; but whoever
    /// answers nothing at all, or does not know the App, is asked no more.
    fn heed<T>(&mut self, answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
        let error = match answer {
            Ok(answer) => {
                self.unanswered = 0;
                return Ok(Some(answer));
            }
            Err(Failure::Forge(error)) => error,
            Err(error) => return Err(error),
        };
        match &error {
            ForgeError::Limited { until } => self.next = self.next.min(*until),
            ForgeError::NotTheApp => return Err(error.into()),
            _ if error.is_for_people() => self.tell(&error),
            _ => tracing::warn!(%error, "GitHub could not be asked for missed deliveries there"),
        }
        let no_answer = match &error {
            ForgeError::NoAnswer(_) => true,
            ForgeError::Status(status) => status.is_server_error(),
            _ => false,
        };
        self.unanswered = if no_answer { self.unanswered + 1 } else { self.unanswered };
        if self.unanswered < MOST_UNANSWERED { Ok(None) } else { Err(error.into()) }
    }

    /// Says once what keeps a place from being looked at.
    fn tell(&self, why: &ForgeError) {
        if !self.service.github.said.is_first(format!("missed deliveries: {why}")) {
            return;
        }
        if self.has_own {
            // With an App's own webhook there need be no other.
            tracing::info!(%why, "missed deliveries are asked for of the App's webhook alone there");
        } else {
            tracing::warn!(%why, "missed deliveries are not asked for there");
        }
    }

    /// The repositories that rules name, by a pattern those where the App is installed, and the organisations of the latter.
    async fn places(&mut self) -> Result<Vec<Place>, Failure> {
        let Service { github, config, .. } = self.service;
        let mut places = Vec::new();
        let mut accounts: HashMap<String, Option<Covered>> = HashMap::new();
        for pattern in config.webhooks.iter().flat_map(|rule| &rule.repositories) {
            if let Some(name) = pattern.literal() {
                places.push(Place::repository(&name));
                continue;
            }
            let owner = pattern.owner().to_ascii_lowercase();
            if !accounts.contains_key(&owner) {
                let covered = self.heed(github.covered(&owner).await.map_err(Failure::from))?;
                accounts.insert(owner.clone(), covered);
            }
            let covered = accounts.get(&owner).and_then(Option::as_ref);
            if !covered.is_some_and(|covered| covered.of_user) {
                places.push(Place::Owner(owner));
            }
            let repositories = covered.map(|covered| covered.repositories.as_slice()).unwrap_or_default();
            places.extend(repositories.iter().filter(|name| pattern.matches(name)).map(Place::repository));
        }
        let mut seen = HashSet::new();
        places.retain(|place| seen.insert(place.clone()));
        if places.len() > MOST_PLACES {
            // By turns, of which the clock knows: a look comes each time that it counts on.
            let turn = usize::try_from(self.now / EVERY).unwrap_or_default();
            let first = turn.wrapping_mul(MOST_PLACES) % places.len();
            places.rotate_left(first);
            places.truncate(MOST_PLACES);
        }
        Ok(places)
    }

    /// Looks through the deliveries of one webhook, and asks for those that are missing.
    async fn through(&mut self, github: &GitHub, hook: &Hook) -> Result<(), Failure> {
        let metadata = &self.service.metadata;
        // Of what is older it is not known whether it came.
        let kept = KEPT.min(self.service.config.keep_deliveries.seconds());
        let oldest = self.now.saturating_sub(kept);
        let watched = metadata.watched_hook(hook.key()).await?;
        let watched = watched.unwrap_or(WatchedHook { settled_until: oldest, unread: None });
        let since = oldest.max(watched.settled_until - OVERLAP);
        let from = watched.unread.as_ref().map(|unread| unread.from.as_str());
        let (attempts, rest) = match self.latest_attempts(github, hook, from, since).await {
            Err(Failure::Forge(ForgeError::Status(status))) if from.is_some() && status.is_client_error() => {
                // It does not know the page any more.
                self.look_soon();
                let anew = WatchedHook { unread: None, ..watched };
                return Ok(metadata.note_watched_hook(hook.key(), &anew).await?);
            }
            read => read?,
        };
        let guids: Vec<&str> = attempts.iter().map(|attempt| attempt.guid.as_str()).collect();
        let stored = metadata.stored_deliveries(&guids).await?;
        let asked = metadata.asked_for(hook.key()).await?;
        // What is younger is not settled, whatever GitHub says of it.
        let young = self.now.saturating_sub(UNDER_WAY);
        let mut settled = watched.unread.as_ref().map_or(young, |unread| unread.settled_then);
        let missing = attempts.iter().filter(|attempt| !stored.contains(&attempt.guid));
        for attempt in missing.filter(|attempt| may_be_asked_for(attempt, asked.get(&attempt.guid))) {
            let at = attempt.at().unwrap_or(self.now);
            settled = settled.min(at);
            let lately = asked.get(&attempt.guid).is_some_and(|asked| asked.at > self.now - ASK_EVERY);
            if lately || at > young {
                continue;
            }
            if self.left == 0 {
                self.look_soon();
                continue;
            }
            self.left -= 1;
            metadata.ask_for(hook.key(), &attempt.guid, self.now).await?;
            tracing::info!(
                guid = attempt.guid,
                hook = hook.key(),
                "asking GitHub for a delivery that was missed"
            );
            match github.redeliver(hook, attempt.id).await {
                Err(ForgeError::Status(status)) if status.is_client_error() => {
                    tracing::warn!(guid = attempt.guid, %status, "GitHub does not deliver again");
                }
                done => done?,
            }
        }
        if watched.unread.is_some() || rest.is_some() {
            self.look_soon();
        }
        let watched = match rest {
            None => WatchedHook { settled_until: settled, unread: None },
            Some(from) => WatchedHook { unread: Some(Unread { from, settled_then: settled }), ..watched },
        };
        Ok(metadata.note_watched_hook(hook.key(), &watched).await?)
    }

    fn look_soon(&mut self) {
        self.next = self.next.min(self.now.saturating_add(SOON));
    }

    /// Of each delivery since then the latest attempt, the oldest first; and the cursor of those that are left, if there
    /// are more than one look reads.
    async fn latest_attempts(
        &self,
        github: &GitHub,
        hook: &Hook,
        from: Option<&str>,
        since: i64,
    ) -> Result<(Vec<Attempt>, Option<String>), Failure> {
        let mut latest: Vec<Attempt> = Vec::new();
        let mut seen: HashMap<String, ()> = HashMap::new();
        let mut cursor = from.map(str::to_owned);
        for _ in 0..MOST_PAGES {
            let (page, next) = github.attempts(hook, cursor.as_deref()).await?;
            let older = page.iter().any(|attempt| attempt.at().is_some_and(|at| at < since));
            for attempt in page {
                let fits = attempt.guid.len() <= 64 && attempt.at().is_some_and(|at| at >= since);
                if fits && seen.insert(attempt.guid.clone(), ()).is_none() {
                    latest.push(attempt);
                }
            }
            cursor = next.filter(|_| !older);
            if cursor.is_none() {
                break;
            }
        }
        latest.reverse();
        Ok((latest, cursor))
    }
}

fn may_be_asked_for(attempt: &Attempt, asked: Option<&AskedFor>) -> bool {
    let most = if attempt.was_refused() { MOST_TIMES_REFUSED } else { MOST_TIMES };
    asked.is_none_or(|asked| asked.times < most)
}
