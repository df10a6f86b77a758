//! `[[prefetch.schedule]]`: what is prefetched by the clock.

use std::fmt;

use chrono::{DateTime, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::Deserialize;

use super::{ConfigError, IssuerConfig, IssuerUrl, trust::issuer_of};
use crate::identity::{GitRef, IssuerKind, RepositoryName};

/// As many as anybody may want.
const MAX_SCHEDULES: usize = 100;

/// A prefetch by the clock, checked.
#[derive(Debug, Clone)]
pub struct ScheduledPrefetch {
    /// Who vouches for the jobs.
    pub issuer: IssuerUrl,
    /// Whose jobs' manifests say what.
    pub repository: RepositoryName,
    /// On which ref.
    pub git_ref: GitRef,
    /// When, in UTC.
    pub schedule: Schedule,
}

/// When something is done again and again, as cron says it, in UTC.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

impl Schedule {
    /// The first time after `now`, in seconds since 1970; none if there is none any more.
    pub fn next(&self, now: i64) -> Option<i64> {
        let now = DateTime::<Utc>::from_timestamp(now, 0)?;
        Some(self.cron.find_next_occurrence(&now, false).ok()?.timestamp())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As the file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    issuer: Option<IssuerUrl>,
    repository: RepositoryName,
    #[serde(rename = "ref")]
    git_ref: GitRef,
    at: String,
}

/// The schedules, each of which comes again.
pub(super) fn check(
    files: Vec<File>,
    issuers: &[IssuerConfig],
) -> Result<Vec<ScheduledPrefetch>, ConfigError> {
    if files.len() > MAX_SCHEDULES {
        let problem = format!("there are {} of them, and at most {MAX_SCHEDULES} can be", files.len());
        return Err(ConfigError::value("prefetch.schedule", problem));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    files
        .into_iter()
        .map(|File { issuer, repository, git_ref, at: text }| {
            // The same name may be somebody else's at another forge.
            let issuer = issuer_of(issuer.as_ref(), issuers)
                .map_err(|problem| ConfigError::value(format!("prefetch.schedule of {repository}"), problem))?;
            if issuer.kind == IssuerKind::Oidc {
                let problem =
                    format!("{} is of kind \"oidc\", whose tokens speak of no repository", issuer.url);
                return Err(ConfigError::value(format!("prefetch.schedule of {repository}, issuer"), problem));
            }
            let refuse = |why: &str| {
                let problem = format!(
                    "{text:?} {why}. Write minute, hour, day of the month, month and day of the week, in UTC: \"0 4 * * \
                     *\" is four o'clock each day"
                );
                ConfigError::value(format!("prefetch.schedule of {repository}, at"), problem)
            };
            let cron = parser.parse(&text).map_err(|_| refuse("is no schedule"))?;
            let schedule = Schedule { text: text.clone(), cron };
            // From a day whose date does not matter.
            schedule.next(0).ok_or_else(|| refuse("never comes"))?;
            Ok(ScheduledPrefetch { issuer: issuer.url.clone(), repository, git_ref, schedule })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Environment};

    const GITLAB: &str = "[[issuer]]\nurl = \"https://gitlab.example.org\"\nkind = \"gitlab\"\n";
    const SERVER: &str = "[[issuer]]\nurl = \"https://github.example.org/_services/token\"\n";
    const OTHER: &str = "[[issuer]]\nurl = \"https://other.example.org/_services/token\"\n";
    const OIDC: &str = "[[issuer]]\nurl = \"https://ci.example.org\"\nkind = \"oidc\"\n";

    fn issuer(issuers: &[&str], more: &str) -> Result<String, String> {
        let text = format!(
            "{}[[prefetch.schedule]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\nat = \"0 4 * * *\"\n{more}",
            issuers.concat()
        );
        let environment = Environment::from([("LARDER_DATA_DIR", "/data")]);
        let config = Config::parse(Path::new("f"), &text, &environment).map_err(|error| error.to_string())?;
        Ok(config.prefetch.schedules[0].issuer.to_string())
    }

    #[test]
    fn a_schedule_says_whose_repository_it_means_or_means_githubs() {
        assert_eq!(issuer(&[], "").unwrap(), "https://token.actions.githubusercontent.com");
        assert_eq!(issuer(&[GITLAB, SERVER], "").unwrap(), "https://github.example.org/_services/token");
        let named = "issuer = \"https://gitlab.example.org\"";
        assert_eq!(issuer(&[GITLAB, SERVER, OTHER], named).unwrap(), "https://gitlab.example.org");
        for (issuers, more, told) in [
            (&[SERVER, OTHER][..], "", "does not say whose repository it means"),
            (&[GITLAB], "", "means GitHub's, and that is not configured"),
            (&[SERVER], named, "https://gitlab.example.org, which is not configured"),
            (&[OIDC], "issuer = \"https://ci.example.org\"", "whose tokens speak of no repository"),
        ] {
            let refusal = issuer(issuers, more).unwrap_err();
            assert!(
                refusal.contains("prefetch.schedule of acme/flake") && refusal.contains(told),
                "{refusal}"
            );
        }
    }
}
