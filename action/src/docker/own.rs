//! Which container we are.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use bollard::{models::ContainerInspectResponse, query_parameters::InspectContainerOptions};

use super::{Docker, DockerError};

/// Our own container.
#[derive(Debug, Clone)]
pub struct Own {
    /// The id of the image that it runs.
    pub image: String,
    /// What of the host is mounted where.
    pub mounts: Vec<Mount>,
}

/// A part of the host's files in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where it is in the container.
    pub destination: PathBuf,
}

/// Where on the host `inside` is, if it is mounted from there.
pub fn host_path(mounts: &[Mount], inside: &Path) -> Option<PathBuf> {
    let (mount, rest) = mounts
        .iter()
        .filter_map(|mount| Some((mount, inside.strip_prefix(&mount.destination).ok()?)))
        .max_by_key(|(mount, _)| mount.destination.components().count())?;
    // Joining nothing would add a slash.
    Some(if rest.as_os_str().is_empty() { mount.source.clone() } else { mount.source.join(rest) })
}

impl Docker {
    /// Our own container: its hostname is its id, unless it shares another's network; then the files that
    /// Docker mounts into it name it.
    ///
    /// # Errors
    /// When none of that names a container that runs this program.
    pub async fn own(&self) -> Result<Own, DockerError> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let candidates = candidates(
            &read("/proc/sys/kernel/hostname"),
            &read("/proc/self/cgroup"),
            &read("/proc/self/mountinfo"),
        );
        let program = env::args_os().next().unwrap_or_default();
        for candidate in candidates {
            let Ok(found) = self.0.inspect_container(&candidate, None::<InspectContainerOptions>).await
            else {
                continue;
            };
            let is_id = found.id.as_deref().is_some_and(|id| id.starts_with(&candidate));
            if is_id && found.path.as_deref().is_some_and(|path| program == path) && found.image.is_some() {
                return Ok(Own { mounts: mounts(&found), image: found.image.unwrap_or_default() });
            }
        }
        Err(DockerError::NoSelf)
    }

    /// What of the host is mounted into another container.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn mounts_of(&self, container: &str) -> Result<Vec<Mount>, DockerError> {
        let found = self.0.inspect_container(container, None::<InspectContainerOptions>).await;
        found.map(|found| mounts(&found)).map_err(super::refused("look at the job's container"))
    }
}

fn mounts(container: &ContainerInspectResponse) -> Vec<Mount> {
    let points = container.mounts.iter().flatten();
    points
        .filter_map(|point| {
            let (source, destination) = (point.source.as_deref()?, point.destination.as_deref()?);
            (!source.is_empty()).then(|| Mount { source: source.into(), destination: destination.into() })
        })
        .collect()
}

/// What may be our container's id, the likelier first.
fn candidates(hostname: &str, cgroup: &str, mountinfo: &str) -> Vec<String> {
    let is_id = |text: &str, least: usize| {
        (least..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut found: Vec<String> = Vec::new();
    let mut add = |text: &str| {
        if !found.iter().any(|known| known == text) {
            found.push(text.to_owned());
        }
    };
    if is_id(hostname.trim(), 12) {
        add(hostname.trim());
    }
    // cgroup: `…/docker/<id>` or `…/docker-<id>.scope`; mountinfo: `/var/lib/docker/containers/<id>/hostname`.
    for text in [cgroup, mountinfo] {
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_id(word, 64)).for_each(&mut add);
    }
    found.truncate(8);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_by_its_hostname_or_by_what_docker_mounts() {
        let id = "3f1c".repeat(16);
        let mountinfo = format!(
            "684 663 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/root rw\n\
             685 663 8:1 /var/lib/docker/containers/{id}/hosts /etc/hosts rw - ext4 /dev/root rw\n\
             600 1 0:40 / / rw - overlay overlay rw,upperdir=/var/lib/docker/overlay2/{}/diff\n",
            "ab".repeat(32)
        );
        assert_eq!(candidates(&format!("{}\n", &id[..12]), "", "")[0], id[..12]);
        assert_eq!(candidates("build-host-7\n", "0::/\n", &mountinfo)[0], id);
        assert_eq!(
            candidates("deadbeef\n", &format!("1:name=systemd:/docker/{id}\n"), ""),
            std::slice::from_ref(&id)
        );
        assert_eq!(candidates("x\n", &format!("0::/system.slice/docker-{id}.scope"), ""), [id]);
    }

    #[test]
    fn the_deepest_mount_says_where_on_the_host_a_file_is() {
        let mount = |source: &str, destination: &str| Mount {
            source: source.into(),
            destination: destination.into(),
        };
        let mounts = [
            mount("/home/runner/work/_temp", "/github/runner_temp"),
            mount("/home/runner/work/_temp/_github_home", "/github/home"),
            mount("/srv", "/github"),
        ];
        let host = |inside: &str| host_path(&mounts, Path::new(inside));
        assert_eq!(host("/github/runner_temp"), Some("/home/runner/work/_temp".into()));
        assert_eq!(host("/github/home/x/y"), Some("/home/runner/work/_temp/_github_home/x/y".into()));
        assert_eq!(host("/github/runner_temporary"), Some("/srv/runner_temporary".into()));
        assert_eq!(host("/etc"), None);
    }
}
