//! What GitHub's runner tells an action by environment variables.

use std::{collections::HashMap, env, path::PathBuf};

use super::files::CommandFiles;

/// Environment variables. A value that is no text counts as missing.
#[derive(Clone, Default)]
pub struct Variables(HashMap<String, String>);

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self(
            env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// The value of `name`; none where it is unset or empty, which GitHub's expressions do not tell apart.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An input of the action. The runner writes its name in upper case and spaces as `_`; hyphens stay.
    pub fn input(&self, name: &str) -> Option<&str> {
        let name = format!("INPUT_{}", name.to_uppercase().replace(' ', "_"));
        self.get(&name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// What an earlier stage of this step wrote to `$GITHUB_STATE`.
    pub fn state(&self, name: &str) -> Option<&str> {
        self.get(&format!("STATE_{name}"))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Variables {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// The job, and this step of it.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// `GITHUB_RUN_ID`.
    pub run: String,
    /// `GITHUB_RUN_ATTEMPT`.
    pub attempt: String,
    /// `GITHUB_JOB`: the job's key in the workflow; the legs of a matrix share it.
    pub job: String,
    /// `GITHUB_ACTION`: this step's id.
    pub action: String,
    /// `GITHUB_EVENT_NAME`.
    pub event: String,
    /// Whether the machine is GitHub's own, made for this job alone.
    pub hosted: bool,
    /// `RUNNER_TEMP`, as the runner wrote it: perhaps the host's path.
    pub temp: Option<PathBuf>,
    /// `GITHUB_WORKSPACE`.
    pub workspace: Option<PathBuf>,
    /// `NIX_CONFIG`, as the steps before set it.
    pub nix_config: Option<String>,
    /// The files by which the runner takes orders.
    pub files: CommandFiles,
}

impl Job {
    /// Reads the runner's variables. What is missing stays empty: nothing here may fail a job.
    pub fn of(variables: &Variables) -> Self {
        let text = |name: &str| variables.get(name).unwrap_or_default().to_owned();
        let path = |name: &str| variables.get(name).map(PathBuf::from);
        Self {
            run: text("GITHUB_RUN_ID"),
            attempt: text("GITHUB_RUN_ATTEMPT"),
            job: text("GITHUB_JOB"),
            action: text("GITHUB_ACTION"),
            event: text("GITHUB_EVENT_NAME"),
            hosted: variables.get("RUNNER_ENVIRONMENT") == Some("github-hosted"),
            temp: path("RUNNER_TEMP"),
            workspace: path("GITHUB_WORKSPACE"),
            nix_config: variables.get("NIX_CONFIG").map(str::to_owned),
            files: CommandFiles {
                environment: path("GITHUB_ENV"),
                output: path("GITHUB_OUTPUT"),
                state: path("GITHUB_STATE"),
                summary: path("GITHUB_STEP_SUMMARY"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_found_by_the_name_that_action_yml_gives_them() {
        let variables =
            Variables::from([("INPUT_TIME-LIMIT", " 5 "), ("INPUT_PATHS", "  "), ("STATE_agent", "x")]);
        assert_eq!(variables.input("time-limit"), Some("5"));
        assert_eq!(variables.input("paths"), None);
        assert_eq!(variables.input("cache"), None);
        assert_eq!(variables.state("agent"), Some("x"));
    }

    #[test]
    fn a_job_without_a_runner_is_empty_rather_than_an_error() {
        let job = Job::of(&Variables::default());
        assert!(job.run.is_empty() && !job.hosted && job.files.environment.is_none());
        assert!(Job::of(&Variables::from([("RUNNER_ENVIRONMENT", "github-hosted")])).hosted);
        assert!(!Job::of(&Variables::from([("RUNNER_ENVIRONMENT", "self-hosted")])).hosted);
    }
}
