//! An S3 server as a process of its own, so that it can be stopped and killed, and a bucket in it. It is Garage where the
//! environment says so ([`garage`]), and `larder-s3` else, which keeps its objects as files.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use larder_service::config::{BucketConfig, Config, Environment, StorageConfig};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::HttpRequestBody,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{garage, programs::program, test_servers::objects::Objects, world::secret_file};

// As Garage makes them.
const ACCESS_KEY: &str = "GK6c6172646572746573746b";
const SECRET_KEY: &str = "6120736563726574206b657920666f7220746573747320616e64206e6f206f74";
const REGION: &str = "us-east-1";
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
        let any = match garage::program() {
            Some(_) => garage::free_address(),
            None => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let (child, address) = spawn(dir.path(), any).await;
        Self { address, dir, child: Some(child) }
    }

    /// What a service's configuration says to use it.
    pub fn configuration(&self) -> String {
        format!(
            "[storage]\nurl = \"s3://{BUCKET}/larder\"\nendpoint = \"http://{}\"\nregion = \"{REGION}\"\n\
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

    /// The variables of the environment by which it is reached.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ]
    }

    /// What lies in a service's folder of it.
    pub fn objects(&self) -> Objects {
        Objects::in_bucket(&self.config())
    }

    /// Whether something was sent of an object that is not whole.
    pub async fn has_parts(&self) -> bool {
        if garage::program().is_none() {
            // This server keeps them beside its buckets, and has no list of them.
            let mut files = std::fs::read_dir(self.dir.path().join("root")).unwrap().map(Result::unwrap);
            return files.any(|file| file.file_name().to_string_lossy().contains(".part-"));
        }
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html
        let url = format!("http://{}/{BUCKET}?uploads=", self.address);
        let mut request = http::Request::get(&url).body(HttpRequestBody::empty()).unwrap();
        let credential =
            AwsCredential { key_id: ACCESS_KEY.into(), secret_key: SECRET_KEY.into(), token: None };
        AwsAuthorizer::new(&credential, "s3", REGION).try_authorize(&mut request, None).unwrap();
        let request = reqwest::Client::new().get(url).headers(request.headers().clone());
        let answer = request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
        assert!(answer.contains("<ListMultipartUploadsResult"), "{answer}");
        answer.contains("<Upload>")
    }

    /// Where a folder of it lies on the disk, as `larder-s3` keeps it.
    pub fn folder(&self, folder: &str) -> PathBuf {
        assert!(garage::program().is_none(), "Garage keeps no files that are objects");
        self.dir.path().join("root").join(BUCKET).join(folder)
    }

    /// Takes what was asked of it since it was last looked at, as `larder-s3` notes it: methods, paths, ranges.
    pub fn take_requests(&self) -> Vec<String> {
        assert!(garage::program().is_none(), "Garage notes no requests");
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
    *bucket
}

/// Starts it, and waits until it listens. Where, it says.
async fn spawn(dir: &Path, address: SocketAddr) -> (Child, SocketAddr) {
    if let Some(garage) = garage::program() {
        return (garage::start(&garage, dir, address, BUCKET, (ACCESS_KEY, SECRET_KEY)).await, address);
    }
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
