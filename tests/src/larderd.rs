//! The service as a process of its own, so that it can be killed and measured.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use larder_service::{
    config::{Config, Environment, ForgeSecrets},
    metadata::Metadata,
    open_metadata,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    programs::program,
    world::{Scene, configuration},
};

/// `larderd`, with a data directory of the test's. Killed when dropped.
pub struct Larderd {
    address: SocketAddr,
    config: PathBuf,
    /// Variables that it has beside those of the test.
    environment: Vec<(&'static str, String)>,
    child: Child,
    log: watch::Sender<String>,
}

impl Larderd {
    /// Starts it on a free port and waits until it answers.
    pub async fn start(dir: &Path, issuer: &str, scene: &Scene) -> Self {
        Self::with(dir, issuer, scene, Vec::new()).await
    }

    /// The same, with more variables in its environment.
    pub async fn with(
        dir: &Path,
        issuer: &str,
        scene: &Scene,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        // Somebody else may take the port between our looking and its listening.
        for _ in 0..5 {
            if let Some(started) = Self::on(free_address(), dir, issuer, scene, environment.clone()).await {
                return started;
            }
        }
        panic!("larderd does not start: see above");
    }

    /// Starts it on this address and waits until it answers; `None` if it ended instead.
    pub async fn on(
        address: SocketAddr,
        dir: &Path,
        issuer: &str,
        scene: &Scene,
        environment: Vec<(&'static str, String)>,
    ) -> Option<Self> {
        let config = dir.join("larder.toml");
        std::fs::write(&config, configuration(address, &dir.join("data"), issuer, scene).await).unwrap();
        let log = watch::Sender::default();
        let child = spawn(&config, &environment, address, &log).await?;
        Some(Self { address, config, environment, child, log })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills it as a power cut would, as far as a process can tell, and starts it again.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Has it end in good order.
    pub async fn stop(&mut self) {
        let pid = Pid::from_raw(self.child.id().expect("larderd runs").try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().await.unwrap().success(), "larderd ended badly");
    }

    /// Starts it on what it left.
    pub async fn start_again(&mut self) {
        let again = spawn(&self.config, &self.environment, self.address, &self.log).await;
        self.child = again.expect("larderd does not start again");
    }

    /// Its database, whether or not it runs.
    pub async fn metadata(&self) -> Metadata {
        let config =
            Config::load(Some(&self.config), &Environment::of_process(), ForgeSecrets::Read).unwrap();
        open_metadata(&config).await.unwrap()
    }

    /// Waits until it has logged a line with all of this.
    pub async fn says(&self, words: &[&str]) -> String {
        let mut log = self.log.subscribe();
        let find = |log: &str| {
            let mut lines = log.lines();
            lines.find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        };
        let said = timeout(Duration::from_secs(60), log.wait_for(|log| find(log).is_some())).await;
        let line = said.ok().and_then(|log| find(&log.ok()?));
        line.unwrap_or_else(|| panic!("it does not say {words:?}"))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let pid = self.child.id().expect("larderd runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// An address on loopback on which nobody listens now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts it and waits until it is ready; `None` if it ended instead.
async fn spawn(
    config: &Path,
    environment: &[(&'static str, String)],
    address: SocketAddr,
    log: &watch::Sender<String>,
) -> Option<Child> {
    let mut child = Command::new(program("larderd"))
        .arg("--config")
        .arg(config)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut lines, log) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            // Shown if the test fails.
            let _ = writeln!(std::io::stderr(), "{line}");
            log.send_modify(|log| log.extend([&line, "\n"]));
        }
    });
    // It prints its address when it listens, which it does when all else is ready.
    let mut stdout = child.stdout.take().unwrap();
    let mut said = Vec::new();
    let ready = async {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&said).contains(&format!("http://{address}\n")) {
            match stdout.read(&mut piece).await.unwrap() {
                0 => return None,
                read => said.extend_from_slice(&piece[..read]),
            }
        }
        Some(())
    };
    let ready = timeout(Duration::from_secs(60), ready).await.expect("larderd says nothing for a minute");
    // Somebody must go on reading what it prints.
    tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
    ready.map(|()| child)
}
