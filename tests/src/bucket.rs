//! An S3 server as a process of its own, so that it can be stopped and killed, and a bucket in it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use larder_service::config::{BucketConfig, Config, Environment, StorageConfig};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{programs::program, world::secret_file};

const ACCESS_KEY: &str = "larder";
const SECRET_KEY: &str = "a-secret-key-for-tests";
/// The bucket's name.
const BUCKET: &str = "objects";

/// A server with a bucket. Killed when dropped.
pub struct Bucket {
    address: SocketAddr,
    dir: TempDir,
    child: Option<Child>,
}

impl Bucket {
    /// Starts a server with an empty bucket, and waits until it listens.
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("root").join(BUCKET)).unwrap();
        secret_file(&dir.path().join("secret"), SECRET_KEY);
        let (child, address) = spawn(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0))).await;
        Self { address, dir, child: Some(child) }
    }

    /// What a service's configuration says to use it.
    pub fn configuration(&self) -> String {
        format!(
            "[storage]\nurl = \"s3://{BUCKET}/larder\"\nendpoint = \"http://{}\"\nregion = \"us-east-1\"\n\
             access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key_file = \"{}\"\n",
            self.address,
            self.dir.path().join("secret").display()
        )
    }

    /// The same, read.
    pub fn config(&self) -> BucketConfig {
        parse(&self.configuration())
    }

    /// The same for a bucket that has a host of its own below the service's. The server itself is the proxy that leads there, so
    /// that no name has to be known.
    pub fn config_of_host(&self) -> BucketConfig {
        let endpoint = format!("http://s3.example.org:{}", self.address.port());
        let text = self.configuration().replace(&format!("http://{}", self.address), &endpoint);
        let mut bucket = parse(&format!("{text}virtual_hosted = true\n"));
        bucket.options.insert("proxy_url".to_owned(), format!("http://{}", self.address));
        bucket
    }

    /// The URL of a folder in it.
    pub fn url(&self, folder: &str) -> String {
        format!("s3://{BUCKET}/{folder}")
    }

    /// Where that folder lies on the disk.
    pub fn folder(&self, folder: &str) -> PathBuf {
        self.dir.path().join("root").join(BUCKET).join(folder)
    }

    /// The variables of the environment by which it is reached.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ]
    }

    /// Where the objects lie on the disk, which is this server's own affair.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.dir.path().join("root").join(BUCKET).join("larder"), &mut found);
        found
    }

    /// How many parts lie there of objects that are not whole. This server keeps them beside its buckets.
    pub fn parts(&self) -> usize {
        let files = std::fs::read_dir(self.dir.path().join("root")).unwrap().map(Result::unwrap);
        files.filter(|file| file.file_name().to_string_lossy().contains(".part-")).count()
    }

    /// Takes what was asked of it since it was last looked at: methods, paths, ranges.
    pub fn take_requests(&self) -> Vec<String> {
        let file = self.dir.path().join("requests");
        let requests = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        requests.lines().map(str::to_owned).collect()
    }

    /// It stops answering, and keeps its connections.
    pub fn stall(&self) {
        self.signal(Signal::STOP);
    }

    /// It answers again.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Starts it on what it left.
    pub async fn start_again(&mut self) {
        let (child, _) = spawn(self.dir.path(), self.address).await;
        self.child = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).expect("the S3 server runs");
        let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

fn parse(text: &str) -> BucketConfig {
    let environment = Environment::from([("LARDER_DATA_DIR", "/nonexistent")]);
    let config = Config::parse(Path::new("larder.toml"), text, &environment).unwrap();
    let StorageConfig::Bucket(bucket) = config.storage else { panic!("no bucket") };
    bucket
}

/// Starts it, and waits until it listens. Where, it says.
async fn spawn(dir: &Path, address: SocketAddr) -> (Child, SocketAddr) {
    let mut child = Command::new(program("larder-s3"))
        .arg(address.to_string())
        .arg(dir.join("root"))
        .args([ACCESS_KEY, SECRET_KEY])
        .arg(dir.join("requests"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let line = BufReader::new(child.stdout.take().unwrap()).lines().next_line().await.unwrap();
    let address = line.expect("the S3 server does not start").parse().unwrap();
    (child, address)
}
