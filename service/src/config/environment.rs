//! The variables of the environment that `larderd` reads. Each overrides the key of the file beside it.

use std::{collections::BTreeMap, env, fmt, path::PathBuf, str::FromStr};

use super::ConfigError;

/// The configuration's file.
pub const CONFIG: &str = "LARDER_CONFIG";
/// `listen`: the address to listen on.
pub const LISTEN: &str = "LARDER_LISTEN";
/// `public_url`: the URL by which workflows and readers name the service.
pub const PUBLIC_URL: &str = "LARDER_PUBLIC_URL";
/// `data_dir`: where the database, the keys and what is stored lie.
pub const DATA_DIR: &str = "LARDER_DATA_DIR";
/// `storage.url`: the bucket that holds what is stored.
pub const STORAGE_URL: &str = "LARDER_STORAGE_URL";
/// `database.url`: the PostgreSQL database.
pub const DATABASE_URL: &str = "LARDER_DATABASE_URL";
/// `limits.max_body`.
pub const MAX_BODY: &str = "LARDER_MAX_BODY";
/// `limits.max_nar_size`.
pub const MAX_NAR_SIZE: &str = "LARDER_MAX_NAR_SIZE";
/// `limits.max_push_bytes`.
pub const MAX_PUSH_BYTES: &str = "LARDER_MAX_PUSH_BYTES";
/// `limits.upload_window`.
pub const UPLOAD_WINDOW: &str = "LARDER_UPLOAD_WINDOW";
/// What is logged, for example `info,larder_service=debug`.
pub const LOG: &str = "LARDER_LOG";
/// The same, for those who are used to it; [`LOG`] wins.
pub const RUST_LOG: &str = "RUST_LOG";
/// How logs are written: `text` or `json`.
pub const LOG_FORMAT: &str = "LARDER_LOG_FORMAT";

/// Begins the names of variables that count for the bucket of a mirror alone: `LARDER_MIRROR_AWS_REGION`.
pub const OF_MIRROR: &str = "LARDER_MIRROR_";
/// How the names of the variables begin by which buckets are reached.
const CLOUDS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// systemd's `StateDirectory=`, where the data go by default.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
const HOME: &str = "HOME";

/// The variables that matter here, as they were when the process started.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        Self(
            env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// The value of a variable. An empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same where this variable says nothing.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut variables = self.0.clone();
        variables.remove(name);
        Self(variables)
    }

    /// The variables whose names begin so, with their values.
    pub(super) fn starting_with(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let set = self.0.iter().filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty());
        set.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What is said of the bucket of a mirror: where variables like `LARDER_MIRROR_AWS_REGION` are there, they take the
    /// place of all those that clouds' programs read.
    pub fn of_mirror(&self) -> Self {
        let is_clouds = |name: &str| CLOUDS.iter().any(|cloud| name.starts_with(cloud));
        let apart = self.starting_with(OF_MIRROR);
        let apart = apart.filter_map(|(name, value)| Some((name.strip_prefix(OF_MIRROR)?, value)));
        let apart: BTreeMap<String, String> = apart
            .filter(|(name, _)| is_clouds(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if apart.is_empty() {
            return self.clone();
        }
        let others = self.0.iter().filter(|(name, _)| !is_clouds(name));
        Self(others.map(|(name, value)| (name.clone(), value.clone())).chain(apart).collect())
    }

    /// The variable's value, read as `T`. `remedy` says how it is written.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
        remedy: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|error| {
            ConfigError::value(name, format!("{value:?} cannot be read: {error}. Write it as {remedy}"))
        })
    }

    /// Where the data go if nobody says.
    pub(super) fn default_data_dir(&self) -> Result<PathBuf, ConfigError> {
        // systemd separates several directories by colons; the first is the one.
        if let Some(directories) = self.get(STATE_DIRECTORY) {
            return Ok(directories.split(':').next().unwrap_or(directories).into());
        }
        if rustix::process::geteuid().is_root() {
            return Ok("/var/lib/larder".into());
        }
        if let Some(directory) = self.get(XDG_DATA_HOME) {
            return Ok(PathBuf::from(directory).join("larder"));
        }
        match self.get(HOME) {
            Some(home) => Ok(PathBuf::from(home).join(".local/share/larder")),
            None => Err(ConfigError::value(
                "data_dir",
                "is missing, and there is no HOME to put the data under. Write data_dir = \"/var/lib/larder\" or \
                 set LARDER_DATA_DIR",
            )),
        }
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }
}
