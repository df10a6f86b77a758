//! Replicas, the servers below them and the proxy in front of them: all real, on loopback.

use std::{fs, os::unix::fs::PermissionsExt as _};

use larder_protocol::narinfo::NarInfo;
use larder_service::clock::Clock;
use larder_tests::{
    bucket::Bucket,
    client::Client,
    github::{GitHub, Job},
    killing::copy,
    larderd::{Larderd, free_address},
    nginx::Nginx,
    package::Package,
    postgres::Postgres,
    world::Scene,
};
use tempfile::TempDir;

/// What is below replicas.
pub struct Servers {
    pub postgres: Postgres,
    pub bucket: Bucket,
}

impl Servers {
    pub async fn start() -> Self {
        let (postgres, bucket) = tokio::join!(Postgres::start(), Bucket::start());
        Self { postgres, bucket }
    }

    /// A service on them, with one cache to which the default job may push.
    pub fn scene(&self) -> Scene {
        let limits =
            format!("[database]\nurl = \"{}\"\n{}", self.postgres.url(), self.bucket.configuration());
        Scene { limits, ..Scene::default() }
    }
}

/// The whole site.
pub struct Site {
    pub replicas: Vec<Larderd>,
    pub nginx: Nginx,
    pub servers: Servers,
    pub github: GitHub,
    _dir: TempDir,
}

impl Site {
    /// So many replicas.
    pub async fn start(replicas: usize) -> Self {
        let servers = Servers::start().await;
        let scene = servers.scene();
        Self::on(servers, &scene, replicas).await
    }

    /// The same on what these servers have, one after the other.
    pub async fn on(servers: Servers, scene: &Scene, count: usize) -> Self {
        let (github, dir) = (GitHub::start(Clock::System).await, TempDir::new().unwrap());
        // Somebody else may take a port between our looking and its listening.
        for _ in 0..5 {
            let addresses: Vec<_> = (0..count).map(|_| free_address()).collect();
            let nginx = Nginx::start(&addresses).await;
            let variables = vec![
                ("LARDER_PUBLIC_URL", nginx.url()),
                ("LARDER_LOG", "info,larder_service=debug".to_owned()),
            ];
            let mut replicas = Vec::new();
            for (number, address) in addresses.into_iter().enumerate() {
                let own = dir.path().join(number.to_string());
                if number > 0 {
                    // All sign by the same keys.
                    copy(&dir.path().join("0/data/keys"), &own.join("data/keys"));
                    fs::set_permissions(own.join("data"), fs::Permissions::from_mode(0o700)).unwrap();
                }
                fs::create_dir_all(&own).unwrap();
                let started = Larderd::on(address, &own, github.issuer(), scene, variables.clone()).await;
                let Some(started) = started else { break };
                if number == 0 {
                    // It is the first.
                    started.says(&["this replica leads"]).await;
                }
                replicas.push(started);
            }
            if replicas.len() == count {
                return Self { replicas, nginx, servers, github, _dir: dir };
            }
        }
        panic!("the replicas do not start: see above");
    }

    /// A session for a job, through nginx.
    pub async fn client(&self, job: &Job) -> Client {
        let id_token = self.github.id_token(job, &self.nginx.url());
        Client::exchange(&self.nginx.url(), "main", &id_token).await.unwrap()
    }
}

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// It is there, to the last byte.
    Right,
    /// 404, for the narinfo or the NAR.
    Absent,
    /// The connection broke off; what came before was right.
    Cut,
    /// This status.
    Refused(u16),
}

/// Reads a path of `main` by the URL of a service, as Nix does. Nothing that is wrong may come.
pub async fn read(http: &reqwest::Client, service: &str, package: &Package) -> Read {
    let narinfo = match get(http, &format!("{service}/main/{}.narinfo", package.info.path.hash())).await {
        Ok(body) => NarInfo::parse(std::str::from_utf8(&body).unwrap()).unwrap(),
        Err(Got { read, .. }) => return read,
    };
    assert_eq!(narinfo.nar_hash, package.info.nar_hash);
    let (bytes, read) = match get(http, &format!("{service}/main/{}", narinfo.url)).await {
        Ok(bytes) => (bytes, Read::Right),
        Err(Got { begun, read }) => (begun, read),
    };
    let mut nar = Vec::new();
    // What is cut off ends in the middle of a frame.
    let whole = zstd::stream::copy_decode(&bytes[..], &mut nar).is_ok();
    assert!(package.nar.starts_with(&nar), "{} was served otherwise", package.info.path.absolute());
    assert!(read != Read::Right || whole && nar == package.nar, "{} was cut", package.info.path.absolute());
    read
}

struct Got {
    begun: Vec<u8>,
    read: Read,
}

async fn get(http: &reqwest::Client, url: &str) -> Result<Vec<u8>, Got> {
    let mut begun = Vec::new();
    let Ok(mut answer) = http.get(url).send().await else { return Err(Got { begun, read: Read::Cut }) };
    match answer.status().as_u16() {
        200 => {}
        404 => return Err(Got { begun, read: Read::Absent }),
        status => return Err(Got { begun, read: Read::Refused(status) }),
    }
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => begun.extend_from_slice(&piece),
            Ok(None) => return Ok(begun),
            Err(_) => return Err(Got { begun, read: Read::Cut }),
        }
    }
}
