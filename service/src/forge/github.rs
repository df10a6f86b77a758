//! GitHub's API, asked through octocrab: as the App, as one of its installations, or as nobody.
//!
//! Nothing here tries again: who asks is a job, and the queue has it wait and come back. While GitHub wants nobody to
//! ask, nobody does, and nothing else waits for that.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use octocrab::Octocrab;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    app::{App, Needs, Place},
    limits::{self, Limit},
    once::Once,
};
use crate::{
    clock::Clock,
    config::{GitHubConfig, public_url::is_loopback},
    identity::RepositoryName,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
/// GitHub's answers are of some kilobytes; a page of a hundred deliveries has some fifty.
const MAX_ANSWER: usize = 4 << 20;

/// GitHub's API.
pub struct GitHub {
    crab: Octocrab,
    pub(super) clock: Clock,
    app: Option<App>,
    resting: Mutex<HashMap<Who, Rest>>,
    /// What the log says of permissions that are missing.
    pub(super) said: Once,
}

/// GitHub could not be asked, or did not answer what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// No client could be made.
    #[error("no connection could be made: {0}")]
    Client(#[from] reqwest::Error),
    /// No answer.
    #[error("no answer: {0}")]
    NoAnswer(Box<octocrab::Error>),
    /// An answer that says nothing about what was asked.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// An answer that cannot be read.
    #[error("its answer cannot be read")]
    Unreadable,
    /// An answer that is longer than it may be.
    #[error("its answer is longer than {0} bytes")]
    TooLarge(usize),
    /// It wants to be left in peace until then, in seconds since 1970.
    #[error("its rate limit is spent until {}", crate::clock::to_date(*.until))]
    Limited {
        /// Until when.
        until: i64,
    },
    /// There is no App.
    #[error(
        "the service speaks as no GitHub App, and this takes one with the permission {}. Write github.app_id and \
         github.private_key_file in larder.toml", .0.name()
    )]
    NoApp(Needs),
    /// The App's key or number is wrong.
    #[error(
        "it does not know the App. Compare github.app_id and github.private_key_file with the App's page"
    )]
    NotTheApp,
    /// The App is not installed there.
    #[error(
        "the GitHub App is not installed for {0}. Install it there, or add the repository to its installation"
    )]
    NotInstalled(String),
    /// The App may not do that there.
    #[error(
        "the GitHub App may not do that for {place}. Give it the permission {}, and accept that where it is installed",
        needs.name()
    )]
    NotPermitted {
        /// What it lacks.
        needs: Needs,
        /// Where.
        place: String,
    },
}

impl ForgeError {
    /// Whether asking again changes nothing before somebody changes a setting.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self, Self::NoApp(_) | Self::NotTheApp | Self::NotInstalled(_) | Self::NotPermitted { .. })
    }
}

/// Whose limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Nobody,
    App,
    Installation(u64),
}

/// Until when somebody is not to ask, and how often in a row that was said without saying when.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    until: i64,
    refusals: u32,
}

/// As whom something is asked, with the secret that shows it.
pub(super) enum Asking {
    Nobody,
    App(String),
    Installation(u64, String),
}

impl Asking {
    fn who(&self) -> Who {
        match self {
            Self::Nobody => Who::Nobody,
            Self::App(_) => Who::App,
            Self::Installation(id, _) => Who::Installation(*id),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question {
    method: Method,
    page: String,
    accept: &'static str,
    body: Option<Value>,
    most: usize,
}

impl Question {
    pub(super) fn new(method: Method, page: String) -> Self {
        Self { method, page, accept: "application/vnd.github+json", body: None, most: MAX_ANSWER }
    }

    pub(super) fn get(page: String) -> Self {
        Self::new(Method::GET, page)
    }

    pub(super) fn with(self, body: &Value) -> Self {
        Self { body: Some(body.clone()), ..self }
    }

    /// A file as it is, of so many bytes at most.
    pub(super) fn raw(self, most: usize) -> Self {
        Self { accept: "application/vnd.github.raw+json", most, ..self }
    }
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ForgeError> {
        serde_json::from_slice(&self.body).map_err(|_| ForgeError::Unreadable)
    }

    /// What a refusal says. It is looked at, and shown to nobody.
    pub(super) fn message(&self) -> String {
        let message = serde_json::from_slice(&self.body).map(|body: Value| body["message"].clone());
        message.ok().and_then(|message| message.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl GitHub {
    /// GitHub's API, as configured.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(config: &GitHubConfig, clock: Clock) -> Result<Self, ForgeError> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // A credential goes where it is for, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("larderd/", env!("CARGO_PKG_VERSION")));
        // A proxy cannot reach what is on this machine.
        let client = if is_loopback(&config.api_url) { client.no_proxy() } else { client }.build()?;
        let builder = Octocrab::builder().base_uri(config.api_url.as_str()).map_err(no_answer)?;
        let crab = builder.build_with_reqwest(client).map_err(no_answer)?;
        let app = config.app.clone().map(App::new);
        Ok(Self { crab, clock, app, resting: Mutex::default(), said: Once::default() })
    }

    /// Whether the service speaks as an App.
    pub fn has_app(&self) -> bool {
        self.app.is_some()
    }

    /// Forgets where the App is installed, and what it was given there.
    pub fn look_again(&self) {
        if let Some(app) = &self.app {
            app.look_again();
        }
        self.said.forget();
    }

    /// Asks as the App itself.
    pub(super) async fn ask_as_app(&self, needs: Needs, question: Question) -> Result<Answer, ForgeError> {
        let app = self.app.as_ref().ok_or(ForgeError::NoApp(needs))?;
        let answer = self.ask(&app.itself(self.clock.now())?, question).await?;
        if answer.status == StatusCode::UNAUTHORIZED { Err(ForgeError::NotTheApp) } else { Ok(answer) }
    }

    /// Asks as the App's installation there, with a token that permits this and nothing else.
    pub(super) async fn ask_at(
        &self,
        place: &Place,
        needs: Needs,
        question: Question,
    ) -> Result<Answer, ForgeError> {
        let app = self.app.as_ref().ok_or(ForgeError::NoApp(needs))?;
        let mut answer = self.ask(&app.at(self, place, needs).await?, question.clone()).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            // It was taken back before its time, as when the App was installed anew.
            app.forget(place, needs);
            answer = self.ask(&app.at(self, place, needs).await?, question).await?;
        }
        if answer.status == StatusCode::FORBIDDEN {
            return Err(ForgeError::NotPermitted { needs, place: place.name().to_owned() });
        }
        Ok(answer)
    }

    /// Asks what everybody may see of a repository, as the App's installation where there is one.
    pub(super) async fn ask_about(
        &self,
        repository: &RepositoryName,
        needs: Needs,
        question: Question,
    ) -> Result<Answer, ForgeError> {
        match self.ask_at(&Place::repository(repository), needs, question.clone()).await {
            Err(error) if error.is_for_people() => {
                let answer = self.ask(&Asking::Nobody, question).await?;
                if answer.status == StatusCode::NOT_FOUND {
                    self.tell_if_private(repository, &error).await;
                }
                Ok(answer)
            }
            answered => answered,
        }
    }

    /// Asks, unless GitHub said not to.
    pub(super) async fn ask(&self, asking: &Asking, question: Question) -> Result<Answer, ForgeError> {
        let (who, now) = (asking.who(), self.clock.now());
        let resting = self.resting().get(&who).copied().unwrap_or_default();
        if resting.until > now {
            return Err(ForgeError::Limited { until: resting.until });
        }
        let crab = match asking {
            Asking::Nobody => self.crab.clone(),
            Asking::App(token) | Asking::Installation(_, token) => {
                self.crab.user_access_token(token.clone()).map_err(no_answer)?
            }
        };
        let Question { method, page, accept, body, most } = question;
        let request = Request::builder().method(method).uri(page).header(header::ACCEPT, accept);
        let request = crab.build_request(request, body.as_ref()).map_err(no_answer)?;
        let (head, body) = crab.execute(request).await.map_err(no_answer)?.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { ForgeError::TooLarge(most) } else { ForgeError::Unreadable }
        })?;
        let answer = Answer { status: head.status, headers: head.headers, body: body.to_bytes() };
        self.heed(who, &answer)?;
        if answer.status.is_server_error() {
            return Err(ForgeError::Status(answer.status));
        }
        Ok(answer)
    }

    /// Notes what an answer says of asking on.
    fn heed(&self, who: Who, answer: &Answer) -> Result<(), ForgeError> {
        let now = self.clock.now();
        let limit = limits::read(answer.status, &answer.headers, &answer.message(), now);
        let mut resting = self.resting();
        let rest = resting.entry(who).or_default();
        match limit {
            Limit::None => {
                // What is over is forgotten, so that installations which went do not stay.
                resting.remove(&who);
                Ok(())
            }
            Limit::Spent { until } => {
                *rest = Rest { until, refusals: 0 };
                Ok(())
            }
            Limit::Refused { until } => {
                let refusals = if until.is_some() { 0 } else { rest.refusals.saturating_add(1) };
                let until = until.unwrap_or_else(|| limits::unsaid(refusals, now));
                *rest = Rest { until, refusals };
                tracing::warn!(
                    ?who,
                    until = crate::clock::to_date(until),
                    "GitHub's rate limit is spent; what needs its API waits"
                );
                Err(ForgeError::Limited { until })
            }
        }
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<Who, Rest>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn no_answer(error: octocrab::Error) -> ForgeError {
    ForgeError::NoAnswer(Box::new(error))
}
