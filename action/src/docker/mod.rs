//! The Docker daemon that runs the action: who we are to it, and the sibling beside us.

mod own;
mod sibling;

use std::{io, path::Path};

pub use own::{Mount, Own, host_path};
pub use sibling::{AgentLabels, Conversation, Sibling, SiblingSpec};

/// Where GitHub's runner mounts the daemon's socket into every container action.
pub const SOCKET: &str = "/var/run/docker.sock";
/// How long the daemon may take for one answer, in seconds.
const ANSWER_LIMIT: u64 = 60;

/// A connection to the daemon.
#[derive(Clone)]
pub struct Docker(bollard::Docker);

/// Why Docker does not help.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket: Kubernetes, or a runner without Docker.
    #[error(
        "there is no Docker socket at {SOCKET} (a runner on Kubernetes has none): the action cannot see the \
         store's files. Run `larder push PATH` in a step of the job instead"
    )]
    NoSocket,
    /// A socket behind which nobody is.
    #[error("Docker does not answer at {SOCKET}: {0}")]
    Unreachable(bollard::errors::Error),
    /// Our own container is not found.
    #[error(
        "the action cannot find its own container, and so not its image; name the image by the input `image`"
    )]
    NoSelf,
    /// The host has no store.
    #[error(
        "the machine that runs Docker has no /nix. Put this step behind the one that installs Nix. In a job with \
         `container:` mount the store into it (`volumes: [\"/nix:/nix\"]`), or leave `container:` out. Where Docker \
         runs on another machine than the job (Docker in Docker, rootless), run `larder push PATH` in a step instead"
    )]
    NoNix,
    /// The job's container has a store of its own.
    #[error(
        "the job's container has no volume at /nix, so that its store cannot be seen from outside. Mount one \
         (`volumes: [\"/nix:/nix\"]` or a named volume), or run `larder push PATH` in a step instead"
    )]
    NixInJobContainer,
    /// The daemon refuses.
    #[error("Docker cannot {what}: {source}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// What it says.
        source: bollard::errors::Error,
    },
    /// The conversation with the agent broke off.
    #[error("the agent ended early{}", if .0.is_empty() { String::new() } else { format!(": {}", .0) })]
    Ended(String),
    /// It took too long.
    #[error("the agent said nothing for {0} seconds")]
    Silent(u64),
    /// The system refuses.
    #[error("cannot speak with the agent: {0}")]
    Io(#[from] io::Error),
}

impl Docker {
    /// Connects to the daemon that runs this container.
    ///
    /// # Errors
    /// When there is no socket, or nobody answers.
    pub async fn connect() -> Result<Self, DockerError> {
        if !Path::new(SOCKET).exists() {
            return Err(DockerError::NoSocket);
        }
        let docker = bollard::Docker::connect_with_unix(SOCKET, ANSWER_LIMIT, bollard::API_DEFAULT_VERSION)
            .map_err(DockerError::Unreachable)?;
        docker.negotiate_version().await.map(Self).map_err(DockerError::Unreachable)
    }
}

fn refused(what: &'static str) -> impl Fn(bollard::errors::Error) -> DockerError {
    move |source| DockerError::Refused { what, source }
}

/// What the daemon says of an error, if it is the daemon's.
fn message(error: &bollard::errors::Error) -> &str {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message,
        _ => "",
    }
}
