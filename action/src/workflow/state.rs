//! What main leaves for post.

use std::{fs, path::PathBuf};

use super::{environment::Variables, files::CommandFiles, log};

/// What post must know. It may be missing: main may have died before, and act does not hand it on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The agent's id; empty if it is not known.
    pub agent: String,
    /// The directory of the marker.
    pub marker: Option<PathBuf>,
}

/// Saves it.
pub fn save(files: &CommandFiles, saved: &Saved) {
    let marker = saved.marker.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let result = files.save_state("agent", &saved.agent).and_then(|()| files.save_state("marker", &marker));
    if let Err(error) = result {
        log::line(&error.to_string());
    }
}

/// What was saved, as far as it makes sense: later steps cannot write it, but the runner hands it on as text.
pub fn read(variables: &Variables) -> Saved {
    let is_id = |id: &&str| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let Some(agent) = variables.state("agent").filter(is_id) else { return Saved::default() };
    let marker = variables.state("marker").map(PathBuf::from);
    let is_ours =
        |dir: &PathBuf| dir.file_name().is_some_and(|name| name == format!("larder-{agent}").as_str());
    Saved { agent: agent.to_owned(), marker: marker.filter(is_ours) }
}

/// Removes the marker, which ends an agent that is still there.
pub fn remove_marker(saved: &Saved) {
    if let Some(dir) = &saved.marker {
        let _ = fs::remove_file(dir.join(crate::agent::MARKER));
        let _ = fs::remove_dir(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_that_makes_no_sense_is_none() {
        let id = "0123456789abcdef";
        let dir = format!("/github/home/larder-{id}");
        let saved = read(&[("STATE_agent", id), ("STATE_marker", dir.as_str())].into());
        assert_eq!(saved, Saved { agent: id.into(), marker: Some(dir.into()) });
        assert_eq!(read(&[("STATE_agent", id), ("STATE_marker", "/etc")].into()).marker, None);
        assert_eq!(read(&[("STATE_agent", "x; rm")].into()), Saved::default());
        assert_eq!(read(&Variables::default()), Saved::default());
    }
}
