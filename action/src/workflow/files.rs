//! The files by which the runner takes orders: `$GITHUB_ENV`, `$GITHUB_OUTPUT`, `$GITHUB_STATE`,
//! `$GITHUB_STEP_SUMMARY`.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::random;

/// Where those files are; none outside of a workflow.
#[derive(Debug, Clone, Default)]
pub struct CommandFiles {
    /// `$GITHUB_ENV`: variables for later steps.
    pub environment: Option<PathBuf>,
    /// `$GITHUB_OUTPUT`: this step's outputs.
    pub output: Option<PathBuf>,
    /// `$GITHUB_STATE`: what the later stages of this step see.
    pub state: Option<PathBuf>,
    /// `$GITHUB_STEP_SUMMARY`: Markdown.
    pub summary: Option<PathBuf>,
}

/// Why an order could not be given to the runner.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no workflow.
    #[error("{0} is not set: is this a step of a GitHub workflow?")]
    Unset(&'static str),
    /// The system refuses.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl CommandFiles {
    /// Sets a variable for the steps that follow, post steps included.
    pub fn set_variable(&self, name: &str, value: &str) -> Result<(), FileError> {
        append("GITHUB_ENV", self.environment.as_deref(), &assignment(name, value)?)
    }

    /// Sets an output of this step.
    pub fn set_output(&self, name: &str, value: &str) -> Result<(), FileError> {
        append("GITHUB_OUTPUT", self.output.as_deref(), &assignment(name, value)?)
    }

    /// Keeps a value for the later stages of this step, which see it as `STATE_<name>`.
    pub fn save_state(&self, name: &str, value: &str) -> Result<(), FileError> {
        append("GITHUB_STATE", self.state.as_deref(), &assignment(name, value)?)
    }

    /// Adds to the job's summary.
    pub fn add_summary(&self, markdown: &str) -> Result<(), FileError> {
        append("GITHUB_STEP_SUMMARY", self.summary.as_deref(), markdown)
    }
}

/// `name<<delimiter`, the value, the delimiter: with a delimiter that nobody can guess, a value cannot end
/// itself early and set another variable.
fn assignment(name: &str, value: &str) -> Result<String, FileError> {
    let delimiter =
        random::hex(16).map_err(|source| FileError::Io { path: "/dev/urandom".into(), source })?;
    Ok(format!("{name}<<larder_{delimiter}\n{value}\nlarder_{delimiter}\n"))
}

fn append(variable: &'static str, path: Option<&Path>, text: &str) -> Result<(), FileError> {
    let path = path.ok_or(FileError::Unset(variable))?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| FileError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads such a file as the runner does: up to the first line that is the delimiter.
    fn parse(text: &str) -> Vec<(String, String)> {
        let mut lines = text.lines();
        let mut found = Vec::new();
        while let Some((name, delimiter)) = lines.next().and_then(|line| line.split_once("<<")) {
            let value: Vec<_> = lines.by_ref().take_while(|line| *line != delimiter).collect();
            found.push((name.to_owned(), value.join("\n")));
        }
        found
    }

    #[test]
    fn a_value_cannot_set_another_variable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let files = CommandFiles { environment: Some(path.clone()), ..CommandFiles::default() };
        let nasty = "a\nlarder_\nPATH<<x\n/evil\nx\n::set-env name=A::b";
        files.set_variable("NIX_CONFIG", nasty).unwrap();
        files.set_variable("OTHER", "").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(parse(&text), [("NIX_CONFIG".into(), nasty.to_owned()), ("OTHER".into(), String::new())]);
    }

    #[test]
    fn outside_of_a_workflow_it_says_so() {
        let error = CommandFiles::default().set_output("a", "b").unwrap_err();
        assert!(error.to_string().contains("GITHUB_OUTPUT is not set"));
    }
}
