//! `[limits]`: what one request, one push, one client and all of them may take.

use larder_protocol::api::MAX_PUSHED_PATHS;
use serde::Deserialize;

use super::{ByteSize, ConfigError, Environment, environment};

/// Bounds, checked.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body that an upload may have. A proxy in front must let as much through.
    pub max_body: ByteSize,
    /// The largest body that opens a push.
    pub max_open_body: ByteSize,
    /// The largest body of recipes.
    pub max_recipes_body: ByteSize,
    /// The largest body of any other request.
    pub max_small_body: ByteSize,
    /// The longest head of a request: its target and its headers.
    pub max_head: ByteSize,
    /// The largest NAR.
    pub max_nar_size: ByteSize,
    /// The most chunks that a NAR may be made of.
    pub max_nar_chunks: u32,
    /// The most bytes of NARs that one push may bring.
    pub max_push_bytes: ByteSize,
    /// The most paths that one push may bring.
    pub max_push_paths: u32,
    /// Memory for frames under way, for all uploads together.
    pub upload_window: ByteSize,
    /// How many pushes may be open.
    pub open_pushes: OpenPushes,
    /// How often somebody may come.
    pub pacing: Pacing,
    /// How many connections there may be; as many as the limit on open files lets, where nothing is said.
    pub max_connections: Option<u32>,
}

/// How many pushes may be open at a time. Those that no request has touched for a quarter of an hour do not count.
#[derive(Debug, Clone, Copy)]
pub struct OpenPushes {
    /// In all (`max_open_pushes`).
    pub in_all: u32,
    /// In one cache (`max_open_pushes_per_cache`).
    pub per_cache: u32,
    /// Of one job or one person's token (`max_open_pushes_per_identity`).
    pub per_identity: u32,
}

/// How many requests each may send in a minute, all at once if it likes.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// Exchanges of ID tokens from one address: a network with many runners may share one.
    pub exchanges_per_address: u32,
    /// Exchanges of ID tokens of one repository. A workflow has up to 256 jobs, and each comes every 12 minutes.
    pub exchanges_per_repository: u32,
    /// Requests that push, from one address.
    pub push_requests_per_address: u32,
    /// Requests that push, of one job or one person's token.
    pub push_requests_per_identity: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: ByteSize::bytes(100_000_000),
            max_open_body: ByteSize::mebibytes(48),
            max_recipes_body: ByteSize::mebibytes(32),
            max_small_body: ByteSize::bytes(64 << 10),
            max_head: ByteSize::bytes(16 << 10),
            max_nar_size: ByteSize::gigabytes(64),
            max_nar_chunks: 1_000_000,
            max_push_bytes: ByteSize::gigabytes(256),
            max_push_paths: 50_000,
            upload_window: ByteSize::mebibytes(32),
            open_pushes: OpenPushes { in_all: 5000, per_cache: 2000, per_identity: 100 },
            pacing: Pacing {
                exchanges_per_address: 1200,
                exchanges_per_repository: 600,
                push_requests_per_address: 60_000,
                push_requests_per_identity: 12_000,
            },
            max_connections: None,
        }
    }
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    max_body: Option<ByteSize>,
    max_open_body: Option<ByteSize>,
    max_recipes_body: Option<ByteSize>,
    max_small_body: Option<ByteSize>,
    max_head: Option<ByteSize>,
    max_nar_size: Option<ByteSize>,
    max_nar_chunks: Option<u32>,
    max_push_bytes: Option<ByteSize>,
    max_push_paths: Option<u32>,
    upload_window: Option<ByteSize>,
    max_open_pushes: Option<u32>,
    max_open_pushes_per_cache: Option<u32>,
    max_open_pushes_per_identity: Option<u32>,
    exchanges_per_address: Option<u32>,
    exchanges_per_repository: Option<u32>,
    push_requests_per_address: Option<u32>,
    push_requests_per_identity: Option<u32>,
    max_connections: Option<u32>,
}

impl Limits {
    pub(super) fn check(file: File, environment: &Environment) -> Result<Self, ConfigError> {
        let size = |variable, file: Option<ByteSize>, default: ByteSize| {
            let size = environment.parsed::<ByteSize>(variable, "for example \"90 MB\"")?;
            Ok::<_, ConfigError>(size.or(file).unwrap_or(default))
        };
        let default = Self::default();
        let (open, pacing) = (default.open_pushes, default.pacing);
        let limits = Self {
            max_body: size(environment::MAX_BODY, file.max_body, default.max_body)?,
            max_open_body: file.max_open_body.unwrap_or(default.max_open_body),
            max_recipes_body: file.max_recipes_body.unwrap_or(default.max_recipes_body),
            max_small_body: file.max_small_body.unwrap_or(default.max_small_body),
            max_head: file.max_head.unwrap_or(default.max_head),
            max_nar_size: size(environment::MAX_NAR_SIZE, file.max_nar_size, default.max_nar_size)?,
            max_nar_chunks: file.max_nar_chunks.unwrap_or(default.max_nar_chunks),
            max_push_bytes: size(environment::MAX_PUSH_BYTES, file.max_push_bytes, default.max_push_bytes)?,
            max_push_paths: file.max_push_paths.unwrap_or(default.max_push_paths),
            upload_window: size(environment::UPLOAD_WINDOW, file.upload_window, default.upload_window)?,
            open_pushes: OpenPushes {
                in_all: file.max_open_pushes.unwrap_or(open.in_all),
                per_cache: file.max_open_pushes_per_cache.unwrap_or(open.per_cache),
                per_identity: file.max_open_pushes_per_identity.unwrap_or(open.per_identity),
            },
            pacing: Pacing {
                exchanges_per_address: file.exchanges_per_address.unwrap_or(pacing.exchanges_per_address),
                exchanges_per_repository: file
                    .exchanges_per_repository
                    .unwrap_or(pacing.exchanges_per_repository),
                push_requests_per_address: file
                    .push_requests_per_address
                    .unwrap_or(pacing.push_requests_per_address),
                push_requests_per_identity: file
                    .push_requests_per_identity
                    .unwrap_or(pacing.push_requests_per_identity),
            },
            max_connections: file.max_connections,
        };
        limits.check_sizes()?;
        limits.check_numbers()?;
        Ok(limits)
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        // Below these a push could not go on: one frame of the largest chunk, and a few of them under way.
        for (key, size, least) in [
            ("max_body", self.max_body, ByteSize::mebibytes(2)),
            ("max_nar_size", self.max_nar_size, ByteSize::mebibytes(1)),
            ("upload_window", self.upload_window, ByteSize::mebibytes(8)),
            ("max_open_body", self.max_open_body, ByteSize::mebibytes(1)),
            ("max_recipes_body", self.max_recipes_body, ByteSize::mebibytes(1)),
            // The longest ID token that is taken has 16 KiB.
            ("max_small_body", self.max_small_body, ByteSize::bytes(20 << 10)),
            ("max_head", self.max_head, ByteSize::bytes(4 << 10)),
        ] {
            if size < least {
                let problem = format!("{size} is too little to work with. Write at least \"{least}\"");
                return Err(ConfigError::value(format!("limits.{key}"), problem));
            }
        }
        // What is longer does not fit into what a connection may hold.
        let most = ByteSize::bytes(48 << 10);
        if self.max_head > most {
            let problem =
                format!("{} is more than any program sends. Write at most \"{most}\"", self.max_head);
            return Err(ConfigError::value("limits.max_head", problem));
        }
        if self.max_push_bytes < self.max_nar_size {
            let problem = format!(
                "{} is less than limits.max_nar_size, {}: the largest NAR could not be pushed. Raise the first or \
                 lower the second",
                self.max_push_bytes, self.max_nar_size
            );
            return Err(ConfigError::value("limits.max_push_bytes", problem));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (open, pacing) = (&self.open_pushes, &self.pacing);
        let paths = u32::try_from(MAX_PUSHED_PATHS).unwrap_or(u32::MAX);
        // Below these a job like many could not push.
        for (key, number, least, most) in [
            ("max_nar_chunks", self.max_nar_chunks, 2000, u32::MAX),
            ("max_push_paths", self.max_push_paths, 1, paths),
            ("max_open_pushes", open.in_all, 1, u32::MAX),
            ("max_open_pushes_per_cache", open.per_cache, 1, u32::MAX),
            ("max_open_pushes_per_identity", open.per_identity, 1, u32::MAX),
            ("exchanges_per_address", pacing.exchanges_per_address, 1, 1_000_000),
            ("exchanges_per_repository", pacing.exchanges_per_repository, 1, 1_000_000),
            ("push_requests_per_address", pacing.push_requests_per_address, 60, 1_000_000),
            ("push_requests_per_identity", pacing.push_requests_per_identity, 60, 1_000_000),
            ("max_connections", self.max_connections.unwrap_or(16), 16, u32::MAX),
        ] {
            if !(least..=most).contains(&number) {
                let problem = if number < least {
                    format!("{number} is too few to work with. Write at least {least}")
                } else {
                    format!("{number} is too many. Write at most {most}")
                };
                return Err(ConfigError::value(format!("limits.{key}"), problem));
            }
        }
        Ok(())
    }
}
