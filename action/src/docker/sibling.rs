//! The sibling container that runs the agent: it sees `/nix`, shares the host's network, and can do little else.

use std::{collections::HashMap, path::PathBuf, pin::Pin, time::Duration};

use bollard::{
    container::{AttachContainerResults, LogOutput},
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as DockerMount, MountType},
    query_parameters::{
        AttachContainerOptionsBuilder, CreateContainerOptions, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    },
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{Docker, DockerError, message, refused};
use crate::agent;

/// What the agent may use of memory. Its window of chunks is far smaller.
const MEMORY: i64 = 1 << 30;
/// Threads: the runtime's, and those that hash and compress.
const PROCESSES: i64 = 512;
/// Seconds that the agent has to end by itself: as long as giving a session back may take, and a little more.
const STOPPING: i32 = 6;
/// The end of the agent's own log that is kept, to say why it ended.
const KEPT_LOG: usize = 2_000;

/// How an agent is found again: by its id, or, where no state was kept, as the one of this step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentLabels {
    /// Random, of this agent alone.
    pub id: String,
    /// The host path of the runner's `_temp`: of this runner alone.
    pub temp: String,
    /// The run.
    pub run: String,
    /// Its attempt.
    pub attempt: String,
    /// The job's key; the legs of a matrix share it.
    pub job: String,
    /// The step's id.
    pub action: String,
}

const ID: &str = "larder.agent";

impl AgentLabels {
    fn of_step(&self) -> [(&'static str, &str); 5] {
        [
            ("larder.temp", &self.temp),
            ("larder.run", &self.run),
            ("larder.attempt", &self.attempt),
            ("larder.job", &self.job),
            ("larder.action", &self.action),
        ]
    }

    fn to_labels(&self) -> HashMap<String, String> {
        let step = self.of_step();
        [(ID, self.id.as_str())]
            .into_iter()
            .chain(step)
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    /// Whether `labels` are of the agent with this id, or, if the id is not known (any more), of this step's.
    fn fit(&self, labels: &HashMap<String, String>) -> bool {
        let has = |name: &str, value: &str| labels.get(name).is_some_and(|label| label == value);
        if self.id.is_empty() {
            labels.contains_key(ID) && self.of_step().into_iter().all(|(name, value)| has(name, value))
        } else {
            has(ID, &self.id)
        }
    }
}

/// What the sibling is to be.
#[derive(Debug, Clone)]
pub struct SiblingSpec {
    /// The image to run.
    pub image: String,
    /// The program in it.
    pub program: String,
    /// How it is found again.
    pub labels: AgentLabels,
    /// Where the store is on the host.
    pub nix: PathBuf,
    /// The host's directory with the marker in it.
    pub marker: Option<PathBuf>,
    /// The container whose network it shares; the host's, if none.
    pub network: Option<String>,
}

/// A sibling that runs.
#[derive(Debug, Clone)]
pub struct Sibling {
    /// Docker's id of the container.
    pub container: String,
    /// The agent's own id.
    pub id: String,
}

/// Lines to and from a program in a container.
pub struct Conversation {
    input: Pin<Box<dyn AsyncWrite + Send>>,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
    unread: Vec<u8>,
    log: Vec<u8>,
}

/// Files of the host by which the agent finds out whom its Nix daemon trusts. A host need not have them.
const FOR_TRUST: [&str; 4] = ["/etc/nix", "/etc/static", "/etc/passwd", "/etc/group"];

impl SiblingSpec {
    fn container(&self, left_out: &[&str]) -> ContainerCreateBody {
        let bind = |source: &str, target: &str| DockerMount {
            typ: Some(MountType::BIND),
            source: Some(source.to_owned()),
            target: Some(target.to_owned()),
            read_only: Some(true),
            ..DockerMount::default()
        };
        // As mounts, not binds: a source that is missing is then an error rather than an empty directory.
        let mut mounts = vec![bind(&self.nix.to_string_lossy(), "/nix")];
        mounts.extend(FOR_TRUST.iter().filter(|path| !left_out.contains(path)).map(|path| bind(path, path)));
        mounts.extend(self.marker.iter().map(|source| bind(&source.to_string_lossy(), agent::MARKER_DIR)));
        let socket_dir = agent::SOCKET.rsplit_once('/').map_or("/run", |(dir, _)| dir);
        ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(vec![self.program.clone()]),
            cmd: Some(vec!["agent".into(), "run".into()]),
            user: Some("0:0".into()),
            working_dir: Some("/".into()),
            // Nothing of the job's environment: it shows in `docker inspect`.
            env: Some(Vec::new()),
            labels: Some(self.labels.to_labels()),
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            host_config: Some(HostConfig {
                mounts: Some(mounts),
                network_mode: Some(match &self.network {
                    Some(container) => format!("container:{container}"),
                    None => "host".into(),
                }),
                readonly_rootfs: Some(true),
                tmpfs: Some(
                    [(socket_dir.to_owned(), "rw,noexec,nosuid,nodev,size=1m,mode=0700".to_owned())].into(),
                ),
                cap_drop: Some(vec!["ALL".into()]),
                security_opt: Some(vec!["no-new-privileges".into()]),
                memory: Some(MEMORY),
                pids_limit: Some(PROCESSES),
                auto_remove: Some(true),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".into()),
                    config: Some([("max-size".to_owned(), "1m".to_owned())].into()),
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

impl Docker {
    /// Starts a sibling, and the conversation with it.
    ///
    /// # Errors
    /// When the host has no `/nix`, or Docker refuses.
    pub async fn start(&self, spec: &SiblingSpec) -> Result<(Sibling, Conversation), DockerError> {
        let container = self.create(spec).await?;
        let sibling = Sibling { container, id: spec.labels.id.clone() };
        match self.attach_and_start(&sibling).await {
            Ok(conversation) => Ok((sibling, conversation)),
            Err(error) => {
                let _ = self.remove(&sibling).await;
                Err(error)
            }
        }
    }

    async fn create(&self, spec: &SiblingSpec) -> Result<String, DockerError> {
        let mut left_out = Vec::new();
        loop {
            let body = spec.container(&left_out);
            let error = match self.0.create_container(None::<CreateContainerOptions>, body).await {
                Ok(created) => return Ok(created.id),
                Err(error) => error,
            };
            let said = message(&error);
            let Some((_, missing)) = said.split_once("bind source path does not exist:") else {
                return Err(refused("create the agent's container")(error));
            };
            let missing = missing.trim();
            if missing == spec.nix.to_string_lossy() {
                return Err(DockerError::NoNix);
            }
            match FOR_TRUST.into_iter().find(|path| *path == missing && !left_out.contains(path)) {
                Some(path) => left_out.push(path),
                None => return Err(refused("create the agent's container")(error)),
            }
        }
    }

    async fn attach_and_start(&self, sibling: &Sibling) -> Result<Conversation, DockerError> {
        let options = AttachContainerOptionsBuilder::default()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        let AttachContainerResults { output, input } = self
            .0
            .attach_container(&sibling.container, Some(options))
            .await
            .map_err(refused("attach to the agent's container"))?;
        self.0
            .start_container(&sibling.container, None::<StartContainerOptions>)
            .await
            .map_err(refused("start the agent's container"))?;
        Ok(Conversation { input, output, unread: Vec::new(), log: Vec::new() })
    }

    /// The agent with these labels, the newest if there are several.
    ///
    /// # Errors
    /// When Docker refuses.
    pub async fn find(&self, wanted: &AgentLabels) -> Result<Option<Sibling>, DockerError> {
        let filters = HashMap::from([("label".to_owned(), vec![ID.to_owned()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let mut found = self.0.list_containers(Some(options)).await.map_err(refused("list containers"))?;
        found.retain(|container| container.labels.as_ref().is_some_and(|labels| wanted.fit(labels)));
        let newest = found.into_iter().max_by_key(|container| container.created);
        Ok(newest.and_then(|container| {
            let id = container.labels.as_ref()?.get(ID)?.clone();
            Some(Sibling { container: container.id?, id })
        }))
    }

    /// Runs a program in the sibling. Its input stays open until the conversation is dropped.
    ///
    /// # Errors
    /// When Docker refuses, or the sibling is gone.
    pub async fn run(&self, sibling: &Sibling, command: Vec<String>) -> Result<Conversation, DockerError> {
        let options = CreateExecOptions {
            cmd: Some(command),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let what = refused("give the agent an order");
        let exec = self.0.create_exec(&sibling.container, options).await.map_err(&what)?;
        match self.0.start_exec(&exec.id, None).await.map_err(&what)? {
            StartExecResults::Attached { output, input } => {
                Ok(Conversation { input, output, unread: Vec::new(), log: Vec::new() })
            }
            StartExecResults::Detached => Err(DockerError::Ended(String::new())),
        }
    }

    /// Ends and removes the sibling, after it had some seconds to give back what it holds. One that is gone already is
    /// no error.
    ///
    /// # Errors
    /// When Docker refuses.
    pub async fn remove(&self, sibling: &Sibling) -> Result<(), DockerError> {
        let options = StopContainerOptionsBuilder::default().t(STOPPING).build();
        // Whatever it says to that: it goes.
        let _ = self.0.stop_container(&sibling.container, Some(options)).await;
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        match self.0.remove_container(&sibling.container, Some(options)).await {
            // 404: gone; 409: its removal is under way.
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. })
            | Ok(()) => Ok(()),
            Err(error) => Err(refused("remove the agent's container")(error)),
        }
    }
}

impl Conversation {
    /// Sends text.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn say(&mut self, text: &str) -> Result<(), DockerError> {
        self.input.write_all(text.as_bytes()).await?;
        Ok(self.input.flush().await?)
    }

    /// The next line that the other side printed, without its end.
    ///
    /// # Errors
    /// When none came within `limit`, or the other side ended.
    pub async fn line(&mut self, limit: Duration) -> Result<String, DockerError> {
        match timeout(limit, self.next_line()).await {
            Ok(line) => line,
            Err(_) => Err(DockerError::Silent(limit.as_secs())),
        }
    }

    async fn next_line(&mut self) -> Result<String, DockerError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.unread.drain(..=searched + end).collect();
                line.pop();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            searched = self.unread.len();
            match self.output.next().await {
                Some(Ok(LogOutput::StdErr { message })) => {
                    self.log.extend_from_slice(&message);
                    let excess = self.log.len().saturating_sub(KEPT_LOG);
                    self.log.drain(..excess);
                }
                Some(Ok(part)) => self.unread.extend_from_slice(&part.into_bytes()),
                Some(Err(_)) | None => {
                    let log = String::from_utf8_lossy(&self.log);
                    return Err(DockerError::Ended(log.lines().next_back().unwrap_or_default().to_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(id: &str, action: &str) -> AgentLabels {
        AgentLabels {
            id: id.into(),
            temp: "/home/runner/work/_temp".into(),
            run: "1".into(),
            attempt: "1".into(),
            job: "build".into(),
            action: action.into(),
        }
    }

    #[test]
    fn an_agent_is_found_by_its_id_or_as_the_one_of_this_step() {
        let agent = labels("a1", "__self").to_labels();
        assert!(labels("a1", "__self_2").fit(&agent), "the id alone decides");
        assert!(!labels("b2", "__self").fit(&agent));
        assert!(labels("", "__self").fit(&agent));
        assert!(!labels("", "__self_2").fit(&agent), "another step's");
        for other in [
            AgentLabels { temp: "/home/runner2/work/_temp".into(), ..labels("", "__self") },
            AgentLabels { attempt: "2".into(), ..labels("", "__self") },
            AgentLabels { run: "2".into(), ..labels("", "__self") },
            AgentLabels { job: "test".into(), ..labels("", "__self") },
        ] {
            assert!(!other.fit(&agent), "{other:?}");
        }
        assert!(!labels("", "__self").fit(&HashMap::new()));
    }

    #[test]
    fn the_sibling_has_little_power_and_no_secret() {
        let spec = SiblingSpec {
            image: "sha256:1".into(),
            program: "/bin/larder".into(),
            labels: labels("a1", "__self"),
            nix: "/nix".into(),
            marker: Some("/home/runner/work/_temp/larder-a1".into()),
            network: None,
        };
        let container = spec.container(&["/etc/static"]);
        let host = container.host_config.unwrap();
        assert_eq!(container.env, Some(Vec::new()));
        assert_eq!(container.cmd, Some(vec!["agent".into(), "run".into()]));
        assert_eq!(host.network_mode.as_deref(), Some("host"));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.cap_drop, Some(vec!["ALL".into()]));
        assert!(host.privileged.is_none() && host.binds.is_none() && host.devices.is_none());
        assert!(host.memory.is_some() && host.pids_limit.is_some());
        let mounts = host.mounts.unwrap();
        assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
        let targets: Vec<_> = mounts.iter().filter_map(|mount| mount.target.as_deref()).collect();
        assert_eq!(targets, ["/nix", "/etc/nix", "/etc/passwd", "/etc/group", "/run/larder-job"]);
    }
}
