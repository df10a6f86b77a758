//! How a bucket of S3 is reached, and who asks.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use object_store::{ClientConfigKey, aws::AmazonS3ConfigKey};
use url::Url;

use super::{
    ConfigError, Environment,
    github::TOO_OPEN,
    profile,
    storage::{File, from_environment},
};

/// What `object_store` is told of a bucket, by its own names: first what the variables of AWS's programs say, then what the
/// file does.
pub(super) fn options(
    bucket: &str,
    file: &File,
    environment: &Environment,
) -> Result<BTreeMap<String, String>, ConfigError> {
    // Some have two names; under one, what the file says takes the place of what a variable does.
    let mut options: BTreeMap<String, String> = from_environment(environment, "AWS_")
        .into_iter()
        .filter_map(|(name, value)| {
            Some((name.parse::<AmazonS3ConfigKey>().ok()?.as_ref().to_owned(), value))
        })
        .collect();
    if file.endpoint.is_some() {
        for key in [AmazonS3ConfigKey::S3Endpoint, ALLOW_HTTP] {
            options.remove(key.as_ref());
        }
    }
    if let Some(credentials) = credentials(file, environment)? {
        // One source speaks for all of it: a key of one and a token of another fit no lock.
        CREDENTIALS.iter().for_each(|key| drop(options.remove(key.as_ref())));
        options.extend(credentials);
    }
    let mut say = |key: AmazonS3ConfigKey, value: String| options.insert(key.as_ref().to_owned(), value);
    if let Some(region) = &file.region {
        say(AmazonS3ConfigKey::Region, region.clone());
    }
    if let Some(virtual_hosted) = file.virtual_hosted {
        say(AmazonS3ConfigKey::VirtualHostedStyleRequest, virtual_hosted.to_string());
    }
    if let Some(text) = &file.endpoint {
        let mut endpoint = address(text)?;
        let host = endpoint.host_str().unwrap_or_default();
        // `object_store` takes an endpoint for the bucket's own where buckets have hosts.
        if file.virtual_hosted == Some(true) && endpoint.set_host(Some(&format!("{bucket}.{host}"))).is_err()
        {
            let problem = format!("a bucket of the name {bucket:?} can have no host. Write false");
            return Err(ConfigError::value("storage.virtual_hosted", problem));
        }
        say(AmazonS3ConfigKey::Endpoint, endpoint.as_str().trim_end_matches('/').to_owned());
    }
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    if let Some(endpoint) = endpoint.iter().find_map(|key| options.get(key.as_ref())) {
        let open = endpoint.starts_with("http://").to_string();
        options.entry(ALLOW_HTTP.as_ref().to_owned()).or_insert(open);
    }
    Ok(options)
}

/// Without it `object_store` refuses an address that begins with `http://`.
const ALLOW_HTTP: AmazonS3ConfigKey = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);

fn address(text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some()
            && url.username().is_empty()
            && url.query().is_none()
            && url.path() == "/"
    });
    url.ok_or_else(|| {
        // It may hold a secret.
        let shown = if text.contains('@') { String::new() } else { format!("{text:?} ") };
        let problem = format!(
            "{shown}is not the address of an S3 service. Write \"https://host\" or \"http://host:port\"; the bucket \
             is in storage.url"
        );
        ConfigError::value("storage.endpoint", problem)
    })
}

/// What says who asks.
const CREDENTIALS: [AmazonS3ConfigKey; 3] =
    [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey, AmazonS3ConfigKey::Token];

/// Who says so otherwise; `object_store` asks them.
const ELSEWHERE: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// The credentials of the configuration; else, where the environment gives none and names nobody who does, those of the
/// file that AWS's programs keep. None where `object_store` is to look: at the environment, then at the machine's own.
fn credentials(file: &File, environment: &Environment) -> Result<Option<Vec<(String, String)>>, ConfigError> {
    match (&file.access_key_id, &file.secret_access_key_file) {
        (Some(id), Some(secret)) => {
            let secret = read_secret("storage.secret_access_key_file", secret)?;
            let said =
                [(AmazonS3ConfigKey::AccessKeyId, id.clone()), (AmazonS3ConfigKey::SecretAccessKey, secret)];
            return Ok(Some(said.into_iter().map(|(key, value)| (key.as_ref().to_owned(), value)).collect()));
        }
        (None, None) => {}
        (Some(_), None) => {
            return Err(ConfigError::value(
                "storage.secret_access_key_file",
                "is missing beside access_key_id. Write the path of a file that holds the secret key alone",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::value(
                "storage.access_key_id",
                "is missing beside secret_access_key_file. Write access_key_id = \"…\"",
            ));
        }
    }
    let said = file.profile.as_deref().map(|profile| ("storage.profile", profile));
    let said = said.or(environment.get("AWS_PROFILE").map(|profile| ("AWS_PROFILE", profile)));
    let (said_by, profile) = said.unwrap_or(("AWS_PROFILE", "default"));
    if let Some(credentials) = &file.credentials_file {
        return profile::read(credentials, profile, "storage.credentials_file").map(Some);
    }
    if file.profile.is_none() && ELSEWHERE.iter().any(|name| environment.get(name).is_some()) {
        return Ok(None);
    }
    if let Some(shared) = environment.get(SHARED_FILE) {
        return profile::read(Path::new(shared), profile, SHARED_FILE).map(Some);
    }
    let shared = Path::new(environment.get("HOME").unwrap_or("~")).join(".aws/credentials");
    match said.is_some() || shared.is_file() {
        true => profile::read(&shared, profile, said_by).map(Some),
        false => Ok(None),
    }
}

/// The variable that names the file where AWS's programs keep credentials.
const SHARED_FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";

/// A secret in a file of its own. `key` names the file.
pub(super) fn read_secret(key: &str, file: &Path) -> Result<String, ConfigError> {
    let refuse = |problem: String| ConfigError::value(key, format!("{}: {problem}", file.display()));
    let unreadable = |error| refuse(format!("it cannot be read: {error}"));
    let about = fs::metadata(file).map_err(unreadable)?;
    let mode = about.permissions().mode() & 0o777;
    if about.is_file() && mode & TOO_OPEN != 0 {
        let problem =
            format!("it has the mode {mode:03o}: others can reach it. Write: chmod 600 {}", file.display());
        return Err(refuse(problem));
    }
    let secret = fs::read_to_string(file).map_err(unreadable)?;
    let secret = secret.trim_end_matches(['\r', '\n']);
    match secret.trim().is_empty() {
        true => Err(refuse("it is empty. Write the secret into it, and nothing else".to_owned())),
        false => Ok(secret.to_owned()),
    }
}
