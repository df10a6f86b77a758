//! A client of the Nix daemon: as much of its protocol as it takes to add signed paths and to root them.
//!
//! It says that it speaks version 1.34, which is Nix 2.8's: every daemon since then answers in that version
//! (`libstore/daemon.cc`, `libstore/worker-protocol.cc`).

use std::{collections::HashSet, io, path::Path, time::Duration};

use data_encoding::HEXLOWER;
use larder_protocol::{StorePath, api::PathInfo};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;
/// 1.34.
const VERSION: u64 = 0x122;

const ADD_TEMP_ROOT: u64 = 11;
const ADD_INDIRECT_ROOT: u64 = 12;
const QUERY_VALID_PATHS: u64 = 31;
const ADD_TO_STORE_NAR: u64 = 39;

/// What the daemon says before its answer.
const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// The longest text that is read, and the most of them in one answer.
const MAX_TEXT: u64 = 1 << 20;
const MAX_ITEMS: u64 = 1 << 20;
/// How long the daemon may say nothing: adding a path makes it hash and write, and wait for locks.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// It cannot be reached, or breaks off.
    #[error("the Nix daemon cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// It says nothing.
    #[error("the Nix daemon does not answer")]
    Silent,
    /// It does not speak as a Nix daemon does.
    #[error("what answers is no Nix daemon that is known: {0}")]
    Protocol(&'static str),
    /// It refuses.
    #[error("the Nix daemon refuses: {0}")]
    Refused(String),
}

/// How the daemon says that it does not trust who signed a path: through Nix 2.8 and since (`libstore/local-store.cc`).
const UNTRUSTED: [&str; 2] = ["lacks a valid signature", "lacks a signature by a trusted key"];

impl DaemonError {
    /// Whether trying again may help. The daemon's own troubles come as refusals, too: a database or a store that is
    /// locked, a disk that is full, a NAR that was cut on its way.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused(why) => !UNTRUSTED.iter().any(|untrusted| why.contains(untrusted)),
            Self::Io(_) | Self::Silent | Self::Protocol(_) => true,
        }
    }
}

/// A connection to the daemon. What it was asked to keep stays while it is open.
pub(super) struct Daemon {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Daemon {
    /// Connects to the daemon's socket.
    pub(super) async fn connect(socket: &Path) -> Result<Self, DaemonError> {
        within(async {
            let (from, to) = UnixStream::connect(socket).await?.into_split();
            let mut daemon = Self { from: BufReader::new(from), to };
            daemon.send(Message::default().number(CLIENT_MAGIC)).await?;
            if daemon.number().await? != DAEMON_MAGIC {
                return Err(DaemonError::Protocol("it greets otherwise"));
            }
            let version = daemon.number().await?;
            if version >> 8 != VERSION >> 8 || version < VERSION {
                return Err(DaemonError::Protocol("it is older than Nix 2.8"));
            }
            // No processor of its own, no space reserved: both are of the past.
            daemon.send(Message::default().number(VERSION).number(0).number(0)).await?;
            daemon.text().await?;
            daemon.done().await?;
            Ok(daemon)
        })
        .await
    }

    /// Keeps the collector from paths while the connection is open, whether or not they are there.
    pub(super) async fn keep(&mut self, paths: &[StorePath]) -> Result<(), DaemonError> {
        for path in paths {
            self.ask(Message::default().number(ADD_TEMP_ROOT).text(&path.absolute())).await?;
            self.number().await?;
        }
        Ok(())
    }

    /// Which of these paths the store has.
    pub(super) async fn valid(&mut self, paths: &[StorePath]) -> Result<HashSet<StorePath>, DaemonError> {
        // Nothing is to be substituted.
        self.ask(Message::default().number(QUERY_VALID_PATHS).texts(&absolute(paths)).number(0)).await?;
        let unreadable = |_| DaemonError::Protocol("it has another store than /nix/store");
        self.texts().await?.iter().map(|path| StorePath::from_absolute(path).map_err(unreadable)).collect()
    }

    /// Has the collector follow a symlink.
    pub(super) async fn add_root(&mut self, symlink: &str) -> Result<(), DaemonError> {
        self.ask(Message::default().number(ADD_INDIRECT_ROOT).text(symlink)).await?;
        self.number().await?;
        Ok(())
    }

    /// Adds a path whose NAR is read from `nar`. The daemon verifies its hash and its signatures.
    pub(super) async fn add(
        &mut self,
        info: &PathInfo,
        nar: impl AsyncRead + Unpin,
    ) -> Result<(), DaemonError> {
        let message = Message::default()
            .number(ADD_TO_STORE_NAR)
            .text(&info.path.absolute())
            .text(&info.deriver.as_ref().map(StorePath::absolute).unwrap_or_default())
            .text(&HEXLOWER.encode(&info.nar_hash.0))
            .texts(&absolute(&info.references))
            // When it was registered: now.
            .number(0)
            .number(info.nar_size)
            // It was not built there.
            .number(0)
            .texts(&info.signatures.iter().map(ToString::to_string).collect::<Vec<_>>())
            .text(info.ca.as_deref().unwrap_or_default())
            // Not to repair, and its signatures count.
            .number(0)
            .number(0);
        within(self.send(message)).await?;
        let Self { from, to } = self;
        // It may refuse before it has all.
        let sent = send_frames(to, nar);
        let answered = read_until_done(from);
        tokio::pin!(sent, answered);
        tokio::select! {
            answer = &mut answered => {
                answer?;
                Err(DaemonError::Protocol("it answers before it was asked"))
            }
            sent = &mut sent => {
                // Why it hung up says more than that it did.
                within(answered).await.and(sent)
            }
        }
    }

    async fn ask(&mut self, message: Message) -> Result<(), DaemonError> {
        within(self.send(message)).await?;
        within(self.done()).await
    }

    async fn send(&mut self, message: Message) -> Result<(), DaemonError> {
        Ok(self.to.write_all(&message.0).await?)
    }

    async fn done(&mut self) -> Result<(), DaemonError> {
        read_until_done(&mut self.from).await
    }

    async fn number(&mut self) -> Result<u64, DaemonError> {
        within(number(&mut self.from)).await
    }

    async fn text(&mut self) -> Result<String, DaemonError> {
        within(text(&mut self.from)).await
    }

    async fn texts(&mut self) -> Result<Vec<String>, DaemonError> {
        let count = self.number().await?;
        if count > MAX_ITEMS {
            return Err(DaemonError::Protocol("it answers too much"));
        }
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.text().await?);
        }
        Ok(texts)
    }
}

fn absolute(paths: &[StorePath]) -> Vec<String> {
    paths.iter().map(StorePath::absolute).collect()
}

async fn within<T>(work: impl Future<Output = Result<T, DaemonError>>) -> Result<T, DaemonError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(DaemonError::Silent))
}

/// Sends a NAR in pieces with their lengths, and an empty one.
async fn send_frames(to: &mut OwnedWriteHalf, mut nar: impl AsyncRead + Unpin) -> Result<(), DaemonError> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = nar.read(&mut piece).await?;
        within(async {
            to.write_all(&(read as u64).to_le_bytes()).await?;
            Ok(to.write_all(&piece[..read]).await?)
        })
        .await?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// Reads what the daemon tells of its work, until it is done or says why not.
///
/// No longer than it is waited for: who adds a path waits as long as the path takes.
async fn read_until_done(from: &mut BufReader<OwnedReadHalf>) -> Result<(), DaemonError> {
    loop {
        match number(from).await? {
            LAST => return Ok(()),
            NEXT | WRITE => {
                text(from).await?;
            }
            ERROR => return Err(DaemonError::Refused(error(from).await?)),
            START_ACTIVITY => {
                for _ in 0..3 {
                    number(from).await?;
                }
                text(from).await?;
                fields(from).await?;
                number(from).await?;
            }
            STOP_ACTIVITY => {
                number(from).await?;
            }
            RESULT => {
                number(from).await?;
                number(from).await?;
                fields(from).await?;
            }
            READ => return Err(DaemonError::Protocol("it asks for what was not offered")),
            _ => return Err(DaemonError::Protocol("it says something unknown")),
        }
    }
}

async fn error(from: &mut BufReader<OwnedReadHalf>) -> Result<String, DaemonError> {
    text(from).await?;
    number(from).await?;
    text(from).await?;
    let message = text(from).await?;
    number(from).await?;
    let traces = number(from).await?;
    if traces > MAX_ITEMS {
        return Err(DaemonError::Protocol("it explains too much"));
    }
    for _ in 0..traces {
        number(from).await?;
        text(from).await?;
    }
    Ok(message)
}

async fn fields(from: &mut BufReader<OwnedReadHalf>) -> Result<(), DaemonError> {
    let count = number(from).await?;
    if count > MAX_ITEMS {
        return Err(DaemonError::Protocol("it tells too much"));
    }
    for _ in 0..count {
        match number(from).await? {
            0 => {
                number(from).await?;
            }
            1 => {
                text(from).await?;
            }
            _ => return Err(DaemonError::Protocol("it tells something unknown")),
        }
    }
    Ok(())
}

async fn number(from: &mut BufReader<OwnedReadHalf>) -> Result<u64, DaemonError> {
    Ok(from.read_u64_le().await?)
}

async fn text(from: &mut BufReader<OwnedReadHalf>) -> Result<String, DaemonError> {
    let len = number(from).await?;
    if len > MAX_TEXT {
        return Err(DaemonError::Protocol("it says too much at once"));
    }
    let mut text = Vec::new();
    from.take(len.next_multiple_of(8)).read_to_end(&mut text).await?;
    text.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What is sent: numbers and texts as Nix writes them.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self = self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    fn texts(self, texts: &[String]) -> Self {
        texts.iter().fold(self.number(texts.len() as u64), |message, text| message.text(text))
    }
}
