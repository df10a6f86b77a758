//! A profile's keys in a file as AWS's programs keep it:
//! <https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html>.

use std::{fs, path::Path};

use super::ConfigError;

/// What of a profile is of use here, by the names in such files.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// The keys of a profile. `said_by` is the key or the variable that names the file.
pub(super) fn read(file: &Path, profile: &str, said_by: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let refuse = |problem: String| ConfigError::value(said_by, format!("{}: {problem}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| {
        refuse(format!(
            "it cannot be read: {error}. Write storage.credentials_file, or AWS_SHARED_CREDENTIALS_FILE, for another one"
        ))
    })?;
    let Some(keys) = find(&text, profile) else {
        return Err(refuse(format!(
            "it has no [{profile}]. Write storage.profile, or AWS_PROFILE, for another one"
        )));
    };
    // What the file says is never shown: it may be a secret.
    if !KEYS[..2].iter().all(|wanted| keys.iter().any(|(key, _)| key == wanted)) {
        return Err(refuse(format!("[{profile}] needs aws_access_key_id and aws_secret_access_key")));
    }
    Ok(keys)
}

fn find(text: &str, profile: &str) -> Option<Vec<(String, String)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut found = None;
    let mut is_wanted = false;
    for line in lines {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            is_wanted = section.0.trim() == profile;
            if is_wanted {
                found.get_or_insert_with(Vec::new);
            }
        } else if let (true, Some(keys), Some((key, value))) = (is_wanted, &mut found, line.split_once('=')) {
            let key = key.trim().to_ascii_lowercase();
            if KEYS.contains(&&*key) {
                keys.push((key, value.trim().to_owned()));
            }
        }
    }
    found
}
