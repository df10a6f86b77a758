//! Webhooks that point here, and GitHub's list of what it delivered to them.

use http::{Method, StatusCode, header};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{
    app::{Needs, Place},
    github::{Answer, ForgeError, GitHub, Question},
};
use crate::{clock::from_date, config::Config, identity::RepositoryName};

/// Where webhooks come in.
const INBOX: &str = "/webhooks/github";
/// So many pages of a hundred repositories are read of one installation.
const MOST_PAGES: usize = 10;

/// A webhook, by whom one asks about it and where.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    /// Of an App: as the App itself.
    place: Option<Place>,
    /// The page below which its deliveries are.
    page: String,
}

impl Hook {
    /// As the database knows it.
    pub(super) fn key(&self) -> &str {
        &self.page
    }

    async fn ask(&self, github: &GitHub, question: Question) -> Result<Answer, ForgeError> {
        match &self.place {
            None => github.ask_as_app(Needs::RepositoryHooks, question).await,
            Some(place) => github.ask_at(place, needs(place), question).await,
        }
    }
}

fn needs(place: &Place) -> Needs {
    match place {
        Place::Repository(_) => Needs::RepositoryHooks,
        Place::Owner(_) => Needs::OrganizationHooks,
        Place::Account(_) => Needs::Metadata,
    }
}

/// What an installation covers of an account.
pub(super) struct Covered {
    /// Whether it is a user's, which has no webhooks but those of its repositories.
    pub(super) of_user: bool,
    pub(super) repositories: Vec<RepositoryName>,
}

#[derive(Deserialize)]
struct Repositories {
    repositories: Vec<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
    owner: Owner,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct KnownHook {
    id: u64,
    config: HookConfig,
}

#[derive(Deserialize)]
struct HookConfig {
    #[serde(default)]
    url: Option<String>,
}

impl HookConfig {
    /// Whether it points to this service. What points elsewhere is another's to look after.
    fn is_ours(&self, config: &Config) -> bool {
        let url = self.url.as_deref().and_then(|url| Url::parse(url).ok());
        let ours = Url::parse(&config.base_url()).ok();
        let (Some(url), Some(ours)) = (url, ours) else { return false };
        url.host() == ours.host()
            && url.port_or_known_default() == ours.port_or_known_default()
            && url.path() == INBOX
    }
}

/// One attempt at a delivery, as GitHub tells of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Attempt {
    /// The attempt's number.
    pub(super) id: u64,
    /// The delivery's name.
    pub(super) guid: String,
    delivered_at: String,
    #[serde(default)]
    status_code: i64,
}

impl Attempt {
    pub(super) fn at(&self) -> Option<i64> {
        from_date(&self.delivered_at)
    }

    /// Whether somebody read it and did not want it, which asking again will hardly change.
    pub(super) fn was_refused(&self) -> bool {
        (400..500).contains(&self.status_code) && ![408, 429].contains(&self.status_code)
    }
}

impl GitHub {
    /// The App's webhook, if it points here.
    pub(super) async fn app_hook(&self, config: &Config) -> Result<Option<Hook>, ForgeError> {
        let question = Question::get("/app/hook/config".to_owned());
        let answer = self.ask_as_app(Needs::RepositoryHooks, question).await?;
        match answer.status {
            StatusCode::OK => {
                let ours = answer.json::<HookConfig>()?.is_ours(config);
                Ok(ours.then(|| Hook { place: None, page: "/app/hook/deliveries".to_owned() }))
            }
            // It has none.
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(ForgeError::Status(status)),
        }
    }

    /// The webhooks of a repository or an organisation that point here.
    pub(super) async fn hooks_at(&self, place: &Place, config: &Config) -> Result<Vec<Hook>, ForgeError> {
        let below = match place {
            Place::Repository(name) => format!("/repos/{name}/hooks"),
            Place::Owner(name) => format!("/orgs/{name}/hooks"),
            Place::Account(_) => return Ok(Vec::new()),
        };
        // "You can create up to 20 webhooks for each event."
        let question = Question::get(format!("{below}?per_page=100"));
        let answer = self.ask_at(place, needs(place), question).await?;
        match answer.status {
            StatusCode::OK => {
                let ours =
                    answer.json::<Vec<KnownHook>>()?.into_iter().filter(|hook| hook.config.is_ours(config));
                let page = |hook: KnownHook| format!("{below}/{}/deliveries", hook.id);
                Ok(ours.map(|hook| Hook { place: Some(place.clone()), page: page(hook) }).collect())
            }
            // A user has none, an organisation may have.
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            status => Err(ForgeError::Status(status)),
        }
    }

    /// The repositories that the App's installation on an account covers.
    pub(super) async fn covered(&self, owner: &str) -> Result<Covered, ForgeError> {
        let place = Place::Account(owner.to_owned());
        let mut covered = Covered { of_user: false, repositories: Vec::new() };
        for page in 1..=MOST_PAGES {
            let page = format!("/installation/repositories?per_page=100&page={page}");
            let answer = self.ask_at(&place, needs(&place), Question::get(page)).await?;
            if answer.status != StatusCode::OK {
                return Err(ForgeError::Status(answer.status));
            }
            let Repositories { repositories } = answer.json()?;
            let last = repositories.len() < 100;
            covered.of_user |= repositories.iter().any(|repository| repository.owner.kind == "User");
            let names = repositories.iter().filter_map(|repository| repository.full_name.parse().ok());
            covered.repositories.extend(names);
            if last {
                break;
            }
        }
        Ok(covered)
    }

    /// A page of attempts at a webhook's deliveries, the newest first, and the cursor of the next one.
    pub(super) async fn attempts(
        &self,
        hook: &Hook,
        cursor: Option<&str>,
    ) -> Result<(Vec<Attempt>, Option<String>), ForgeError> {
        let mut page = format!("{}?per_page=100", hook.page);
        if let Some(cursor) = cursor {
            page.push_str("&cursor=");
            page.extend(form_urlencoded::byte_serialize(cursor.as_bytes()));
        }
        let answer = hook.ask(self, Question::get(page)).await?;
        if answer.status != StatusCode::OK {
            return Err(ForgeError::Status(answer.status));
        }
        let next = answer.headers.get(header::LINK).and_then(|link| next_cursor(link.to_str().ok()?));
        Ok((answer.json()?, next))
    }

    /// Has a delivery sent again.
    pub(super) async fn redeliver(&self, hook: &Hook, attempt: u64) -> Result<(), ForgeError> {
        let question = Question::new(Method::POST, format!("{}/{attempt}/attempts", hook.page));
        let answer = hook.ask(self, question).await?;
        if answer.status.is_success() { Ok(()) } else { Err(ForgeError::Status(answer.status)) }
    }
}

/// The cursor in the address of the next page. The rest of that address is not followed: it is ours already.
fn next_cursor(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.split_once('<')?.1.split_once('>')?.0;
    let (_, query) = url.split_once('?')?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == "cursor").map(|(_, cursor)| cursor.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_taken_from_the_next_page_and_from_nowhere_else() {
        let link =
            "<https://api.github.com/app/hook/deliveries?per_page=100&cursor=v1_127%3D8>; rel=\"next\"";
        assert_eq!(next_cursor(link).as_deref(), Some("v1_127=8"));
        assert_eq!(
            next_cursor("<https://x/?cursor=1>; rel=\"prev\", <https://x/?cursor=2>; rel=\"next\"")
                .as_deref(),
            Some("2")
        );
        for none in ["", "<https://x/?cursor=1>; rel=\"prev\"", "<https://x/>; rel=\"next\"", "rel=\"next\""]
        {
            assert_eq!(next_cursor(none), None);
        }
    }
}
