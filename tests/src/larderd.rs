//! The service as a process of its own, so that it can be killed and measured.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
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
    child: Child,
}

impl Larderd {
    /// Starts it on a free port and waits until it answers.
    pub async fn start(dir: &Path, issuer: &str, scene: &Scene) -> Self {
        // Somebody else may take the port between our looking and its listening.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let config = dir.join("larder.toml");
            std::fs::write(&config, configuration(address, &dir.join("data"), issuer, scene)).unwrap();
            if let Some(child) = spawn(&config, address).await {
                return Self { address, config, child };
            }
        }
        panic!("larderd does not start: see above");
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

    /// Starts it on what it left.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.config, self.address).await.expect("larderd does not start again");
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let pid = self.child.id().expect("larderd runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Starts it and waits until it is ready; `None` if it ended instead.
async fn spawn(config: &Path, address: SocketAddr) -> Option<Child> {
    let mut child = Command::new(program("larderd"))
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
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
