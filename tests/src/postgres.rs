//! A PostgreSQL server of a test's own, as a process that can be stopped and killed.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, getuid, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// How long it may take to begin or to end.
const WITHIN: Duration = Duration::from_secs(60);
/// Who owns all in it, and is asked for no password.
const SUPERUSER: &str = "postgres";

/// A server. What it holds goes with it; killed when dropped.
pub struct Postgres {
    programs: PathBuf,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// Makes a server on a free port of loopback, with an empty database, and waits until it answers.
    pub async fn start() -> Self {
        spawn_blocking(Self::make).await.unwrap()
    }

    fn make() -> Self {
        let (programs, dir) = (programs(), TempDir::new().unwrap());
        if let Some((user, group)) = owner() {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let mut make = as_owner(&programs.join("initdb"), dir.path());
        make.args(["--auth", "trust", "--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C"]);
        let made = make.args(["--no-sync", "--pgdata", "data"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Somebody else may take the port between our looking and its listening.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = spawn(&programs, dir.path(), port) {
                return Self { programs, dir, port, child: Some(child) };
            }
        }
        panic!("PostgreSQL does not start: see above");
    }

    /// The URL of its database, as `[database]` and `LARDER_DATABASE_URL` say it.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes another database, and tells its URL.
    pub async fn database(&self, name: &str) -> String {
        let mut connection = PgConnection::connect(&self.url()).await.unwrap();
        let make = sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")));
        make.execute(&mut connection).await.unwrap();
        self.url_of(name)
    }

    /// Stops it in good order: connections are ended, what is committed stays.
    pub async fn stop(&mut self) {
        self.end(Signal::INT).await;
    }

    /// Ends it as a power cut would, as far as a process can tell.
    pub async fn kill(&mut self) {
        self.end(Signal::QUIT).await;
    }

    /// Starts it on what it left, on the same port, and waits until it answers.
    pub async fn start_again(&mut self) {
        let (programs, dir, port) = (self.programs.clone(), self.dir.path().to_owned(), self.port);
        let child = spawn_blocking(move || spawn(&programs, &dir, port)).await.unwrap();
        self.child = Some(child.expect("PostgreSQL does not start again"));
    }

    /// Stops it in good order and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// It and all that serve connections stand still: it takes connections and requests, and answers none.
    pub fn stall(&self) {
        self.signal_all(Signal::STOP);
    }

    /// It answers again.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let main = self.child.as_ref().expect("PostgreSQL runs").id();
        let signal_one = |pid: u32| kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal);
        // First the one that would start others.
        signal_one(main).unwrap();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap();
        for child in children.split_whitespace() {
            // It may have ended by itself.
            let _ = signal_one(child.parse().unwrap());
        }
    }

    async fn end(&mut self, how: Signal) {
        if let Some(child) = self.child.take() {
            spawn_blocking(move || end(child, how)).await.unwrap();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child, Signal::QUIT);
        }
    }
}

/// It ends at once on these signals, and takes the memory with it that its processes share, which it could not if it were
/// killed.
fn end(mut child: Child, how: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    let _ = kill_process(pid, how);
    // Where it stands still, it is told when it goes on.
    let _ = kill_process(pid, Signal::CONT);
    let _ = child.wait();
}

/// The newest that is installed. Debian keeps each version's programs in a folder of their own.
fn programs() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|entry| entry.unwrap().path());
    let version = |folder: &Path| folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let found =
        versions.filter(|folder| folder.join("bin/initdb").exists()).max_by_key(|folder| version(folder));
    found.expect("PostgreSQL is not installed: apt-get install postgresql").join("bin")
}

/// PostgreSQL refuses to be run by root, who has it run by the user that Debian made for it.
fn owner() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let fields =
        users.lines().find_map(|line| line.strip_prefix("postgres:")).expect("there is a user postgres");
    let mut fields = fields.split(':').skip(1).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn as_owner(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null()).env("LC_ALL", "C");
    if let Some((user, group)) = owner() {
        command.uid(user).gid(group);
    }
    command
}

/// Starts it and waits until it answers; `None` if it ended instead.
fn spawn(programs: &Path, dir: &Path, port: u16) -> Option<Child> {
    let mut command = as_owner(&programs.join("postgres"), dir);
    command.args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    // What it holds is worth nothing after the test.
    for setting in ["unix_socket_directories=", "fsync=off", "full_page_writes=off", "max_connections=200"] {
        command.args(["-c", setting]);
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (say_ready, ready) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // Shown if the test fails.
            let _ = writeln!(io::stderr(), "PostgreSQL: {line}");
            if line.ends_with("database system is ready to accept connections") {
                let _ = say_ready.send(());
            }
        }
    });
    match ready.recv_timeout(WITHIN) {
        Ok(()) => Some(child),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            child.wait().unwrap();
            None
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            panic!("PostgreSQL is not ready within a minute");
        }
    }
}
