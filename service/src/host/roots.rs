//! The roots that keep what was taken: symlinks of the service's own, which Nix's collector is told of. A folder for each
//! repository and ref, and in it one for each workflow, with the symlinks of its newest run.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use larder_protocol::StorePath;

use crate::config::{Config, HostTake};

/// In the data directory.
const FOLDER: &str = "host-roots";

/// The roots of a workflow.
pub(super) struct Line {
    folder: PathBuf,
}

impl Line {
    pub(super) fn of(config: &Config, take: &HostTake, workflow: &str) -> Self {
        Self { folder: folder(config).join(key(take)).join(digest(&[workflow])) }
    }

    /// The newest run whose roots are here.
    pub(super) fn newest(&self) -> io::Result<Option<u64>> {
        let mut newest = None;
        for name in names(&self.folder)? {
            newest = newest.max(run_of(&name));
        }
        Ok(newest)
    }

    /// Makes the symlinks of a run, and tells them.
    pub(super) fn make(&self, run: u64, paths: &[StorePath]) -> io::Result<Vec<PathBuf>> {
        fs::create_dir_all(&self.folder)?;
        let links = paths.iter().map(|path| {
            // Without the path's name, which may be as long as a file's may be.
            let link = self.folder.join(format!("{run}-{}", path.hash()));
            match symlink(path.absolute(), &link) {
                // It has the same target: no two paths have one hash.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(link),
            }
        });
        links.collect()
    }

    /// Removes the symlinks of older runs.
    pub(super) fn drop_before(&self, run: u64) -> io::Result<()> {
        for name in names(&self.folder)? {
            if run_of(&name).is_none_or(|other| other < run) {
                fs::remove_file(self.folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// Lets go of what is taken for nobody any more.
///
/// # Errors
/// When the roots' folder cannot be read or written.
pub(crate) fn drop_unconfigured(config: &Config) -> io::Result<()> {
    let kept: HashSet<String> = config.host_store.take.iter().map(key).collect();
    let folder = folder(config);
    for name in names(&folder)? {
        if !kept.contains(&name) {
            // Only folders of symlinks, which are not followed.
            fs::remove_dir_all(folder.join(name))?;
        }
    }
    Ok(())
}

fn folder(config: &Config) -> PathBuf {
    config.data_dir.join(FOLDER)
}

fn key(take: &HostTake) -> String {
    let repository = take.repository.as_str().to_ascii_lowercase();
    digest(&[take.cache.as_str(), take.issuer.as_str(), &repository, take.git_ref.as_str()])
}

/// A name for a folder: what it stands for may have any characters.
fn digest(parts: &[&str]) -> String {
    blake3::hash(parts.join("\0").as_bytes()).to_hex().chars().take(32).collect()
}

fn run_of(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

#[cfg(test)]
mod tests {
    use larder_protocol::StorePathHash;

    use super::*;

    #[test]
    fn what_is_not_configured_any_more_is_let_go_of_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(data.path());
        let take = |git_ref: &str| HostTake {
            cache: "main".parse().unwrap(),
            issuer: Default::default(),
            repository: "acme/flake".parse().unwrap(),
            git_ref: git_ref.parse().unwrap(),
        };
        drop_unconfigured(&config).unwrap();
        config.host_store.take = vec![take("refs/heads/main"), take("refs/heads/stable")];
        // A name as long as there may be one.
        let path = StorePath::new(StorePathHash([7; 20]), &"x".repeat(211)).unwrap();
        let lines: Vec<Line> =
            config.host_store.take.iter().map(|take| Line::of(&config, take, "ci.yml")).collect();
        for line in &lines {
            let [link] = &line.make(u64::MAX, std::slice::from_ref(&path)).unwrap()[..] else { panic!() };
            assert_eq!(fs::read_link(link).unwrap().to_str(), Some(path.absolute().as_str()));
        }
        config.host_store.take.pop();
        drop_unconfigured(&config).unwrap();
        assert_eq!(lines[0].newest().unwrap(), Some(u64::MAX));
        assert_eq!(lines[1].newest().unwrap(), None);
    }

    #[test]
    fn the_roots_of_older_runs_go_when_those_of_a_newer_one_are_there() {
        let data = tempfile::tempdir().unwrap();
        let config = Config::in_dir(data.path());
        let line = Line { folder: folder(&config).join("line") };
        let path = StorePath::new(StorePathHash([7; 20]), "x").unwrap();
        for run in [9, 10] {
            // Twice: whoever was stopped in the middle does it again.
            line.make(run, std::slice::from_ref(&path)).unwrap();
            line.make(run, std::slice::from_ref(&path)).unwrap();
        }
        line.drop_before(10).unwrap();
        assert_eq!(names(&line.folder).unwrap().len(), 1);
        assert_eq!(line.newest().unwrap(), Some(10));
    }
}
