//! Lock files full of URLs that nobody should go to.

use std::{
    io::Read as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use larder_protocol::flake_lock::{FlakeLock, LockedInput};
use larder_service::{
    config::{ByteSize, Config},
    flake::{Fetcher, InputError, Spent},
};
use larder_tests::archive_host::{ArchiveHosts, Page, nar_hash, tarball};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

const FILES: [(&str, &str); 2] = [("flake.nix", "{ outputs = _: { answer = 42; }; }"), ("dir/x", "y")];
const REV: &str = "0123456789abcdef0123456789abcdef01234567";
const ARCHIVE: &str = "https://github.com/acme/lib/archive/0123456789abcdef0123456789abcdef01234567.tar.gz";

/// Loopback is everybody's here: that is where the hosts are. But not 127.0.0.66.
fn all_but_66(address: SocketAddr) -> bool {
    !address.ip().to_string().ends_with(".66")
}

struct Scene {
    hosts: ArchiveHosts,
    _data: TempDir,
    config: Config,
}

impl Scene {
    async fn new() -> Self {
        let names = [
            "github.com",
            "codeload.github.com",
            "gitlab.com",
            "releases.nixos.org",
            "evil.example",
            "inside.example",
        ];
        let hosts = ArchiveHosts::start(&names).await;
        hosts.put(ARCHIVE, Page::Bytes(tarball("lib-0123", &FILES)));
        let data = TempDir::new().unwrap();
        let mut config = Config::in_dir(data.path());
        config.prefetch.max_archive = ByteSize::mebibytes(1);
        config.prefetch.max_unpacked = ByteSize::mebibytes(4);
        Self { hosts, _data: data, config }
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::new(&self.config, &self.hosts.internet(all_but_66)).unwrap()
    }

    async fn fetch(&self, locked: Value) -> Result<String, InputError> {
        let fetched = self.fetcher().fetch(&input(locked), &mut Spent::default()).await?;
        let mut nar = Vec::new();
        { fetched.nar }.read_to_end(&mut nar).unwrap();
        assert_eq!(nar.len() as u64, fetched.nar_size);
        Ok(fetched.from)
    }

    async fn refused(&self, locked: Value) -> String {
        self.fetch(locked).await.unwrap_err().to_string()
    }
}

fn input(mut locked: Value) -> LockedInput {
    if locked["narHash"].is_null() {
        locked["narHash"] = nar_hash(&FILES).into();
    }
    let lock = json!({ "nodes": { "it": { "locked": locked }, "root": {} }, "root": "root", "version": 7 });
    FlakeLock::parse(lock.to_string().as_bytes()).unwrap().inputs.remove(0)
}

fn github() -> Value {
    json!({ "type": "github", "owner": "acme", "repo": "lib", "rev": REV })
}

fn at(url: &str) -> Value {
    json!({ "type": "tarball", "url": url })
}

#[tokio::test]
async fn inputs_come_from_their_hosts_without_any_credential() {
    let scene = Scene::new().await;
    let archive = tarball("top", &FILES);
    let codeload = "https://codeload.github.com/acme/lib/tar.gz/x";
    scene.hosts.put(ARCHIVE, Page::Redirect(302, codeload.to_owned()));
    scene.hosts.put(codeload, Page::Bytes(archive.clone()));
    let gitlab = "https://gitlab.com/api/v4/projects/group%2Fsub%2Flib/repository/archive.tar.gz";
    scene.hosts.put(gitlab, Page::Bytes(archive.clone()));
    let release = "https://releases.nixos.org/x/nixexprs.tar.gz";
    scene.hosts.put(release, Page::Bytes(archive));

    assert_eq!(scene.fetch(github()).await.unwrap(), ARCHIVE);
    let owner = json!({ "type": "gitlab", "owner": "group%2Fsub", "repo": "lib", "rev": REV });
    scene.fetch(owner).await.unwrap();
    scene.fetch(at(release)).await.unwrap();

    let asked = scene.hosts.take_asked();
    let urls: Vec<&str> = asked.iter().map(|asked| asked.url.as_str()).collect();
    assert_eq!(urls, [ARCHIVE, codeload, gitlab, release]);
    for asked in asked {
        let names: Vec<&str> =
            asked.headers.keys().map(|name| name.as_str()).filter(|name| *name != "host").collect();
        assert_eq!(names, ["accept", "user-agent"], "{}", asked.url);
    }
}

#[tokio::test]
async fn nothing_is_asked_of_hosts_that_are_not_listed() {
    let mut scene = Scene::new().await;
    let port = scene.hosts.address().port();
    for url in [
        "http://github.com/x.tar.gz".to_owned(),
        "https://evil.example/x.tar.gz".to_owned(),
        "https://user:password@github.com/x.tar.gz".to_owned(),
        format!("https://github.com:{port}/x.tar.gz"),
        format!("https://127.0.0.1:{port}/x.tar.gz"),
        "https://127.0.0.1/x.tar.gz".to_owned(),
        "https://[::1]/x.tar.gz".to_owned(),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "https://localhost/x.tar.gz".to_owned(),
    ] {
        scene.hosts.put(&url, Page::Bytes(tarball("x", &FILES)));
        let error = scene.fetch(at(&url)).await.unwrap_err();
        assert!(matches!(error, InputError::NotThere(_)), "{url}: {error}");
        assert!(!error.may_pass());
    }
    let elsewhere =
        json!({ "type": "github", "host": "evil.example", "owner": "a", "repo": "b", "rev": REV });
    assert!(scene.refused(elsewhere).await.contains("[prefetch] hosts"));
    assert_eq!(scene.hosts.take_urls(), [""; 0]);

    // Listed, it is asked: it was not for another reason.
    scene.config.prefetch.hosts.push("evil.example".parse().unwrap());
    scene.fetch(at("https://evil.example/x.tar.gz")).await.unwrap();
}

#[tokio::test]
async fn no_redirect_leads_elsewhere() {
    let scene = Scene::new().await;
    let port = scene.hosts.address().port();
    for to in [
        "http://github.com/x".to_owned(),
        "https://evil.example/x".to_owned(),
        "//evil.example/x".to_owned(),
        format!("https://127.0.0.1:{port}/x"),
        format!("http://127.0.0.1:{port}/x"),
        "https://user:password@github.com/x".to_owned(),
        "file:///etc/passwd".to_owned(),
        "https://[::ffff:127.0.0.1]/x".to_owned(),
        "https://169.254.169.254/".to_owned(),
    ] {
        for status in [301, 302, 303, 307, 308] {
            scene.hosts.put(ARCHIVE, Page::Redirect(status, to.clone()));
            let error = scene.fetch(github()).await.unwrap_err();
            assert!(matches!(error, InputError::NotThere(_)), "{to}: {error}");
            assert_eq!(scene.hosts.take_urls(), [ARCHIVE], "{to}");
        }
    }
    scene.hosts.put(ARCHIVE, Page::Redirect(302, ARCHIVE.to_owned()));
    assert!(matches!(scene.fetch(github()).await, Err(InputError::Redirects)));
    assert_eq!(scene.hosts.take_urls().len(), 6);
}

#[tokio::test]
async fn no_name_leads_to_a_private_address() {
    let mut scene = Scene::new().await;
    let trap = TcpListener::bind("127.0.0.66:0").await.unwrap();
    let private = trap.local_addr().unwrap();
    let caught = Arc::new(AtomicUsize::new(0));
    let counting = caught.clone();
    tokio::spawn(async move {
        while let Ok((_stream, _)) = trap.accept().await {
            counting.fetch_add(1, Ordering::SeqCst);
        }
    });
    scene.hosts.resolve("github.com", &[private]);
    let error = scene.fetch(github()).await.unwrap_err();
    assert!(matches!(error, InputError::Private), "{error}");

    // Nor by a redirect to a name that is listed.
    scene.hosts.resolve("github.com", &[scene.hosts.address()]);
    scene.hosts.resolve("gitlab.com", &[private]);
    scene.hosts.put(ARCHIVE, Page::Redirect(302, "https://gitlab.com/x".to_owned()));
    assert!(matches!(scene.fetch(github()).await, Err(InputError::Private)));

    // A name that has both is asked at its public address.
    scene.hosts.resolve("gitlab.com", &[private, scene.hosts.address(), private]);
    scene.hosts.put("https://gitlab.com/x", Page::Bytes(tarball("x", &FILES)));
    scene.fetch(github()).await.unwrap();
    assert_eq!(caught.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_internet_itself_has_no_private_addresses() {
    let scene = Scene::new().await;
    let mut config = scene.config.clone();
    // Of the machine's own names, this one is there without asking anybody.
    config.prefetch.hosts.push("localhost".parse().unwrap());
    let fetcher = Fetcher::new(&config, &Default::default()).unwrap();
    let error =
        fetcher.fetch(&input(at("https://localhost/x.tar.gz")), &mut Spent::default()).await.unwrap_err();
    assert!(matches!(error, InputError::Private), "{error}");
}

#[tokio::test]
async fn what_has_no_end_or_explodes_is_left() {
    let scene = Scene::new().await;
    scene.hosts.put(ARCHIVE, Page::Endless);
    assert!(scene.refused(github()).await.contains("max_archive"));
    scene.hosts.put(ARCHIVE, Page::Bytes(vec![0; (1 << 20) + 1]));
    assert!(scene.refused(github()).await.contains("max_archive"));
    let zeros = "\0".repeat(5 << 20);
    scene.hosts.put(ARCHIVE, Page::Bytes(tarball("x", &[("zeros", &zeros)])));
    assert!(scene.refused(github()).await.contains("max_unpacked"));
    for junk in [&b""[..], b"<html>not found</html>", b"PK\x03\x04", &[0x1f, 0x8b, 8, 0, 0, 0]] {
        scene.hosts.put(ARCHIVE, Page::Bytes(junk.to_vec()));
        let error = scene.fetch(github()).await.unwrap_err();
        assert!(matches!(error, InputError::Archive(_)), "{error}");
    }
}

#[tokio::test]
async fn what_the_lock_file_does_not_say_is_not_taken() {
    let scene = Scene::new().await;
    scene.hosts.put(ARCHIVE, Page::Bytes(tarball("x", &[("flake.nix", "{ evil = true; }")])));
    let error = scene.fetch(github()).await.unwrap_err();
    assert!(matches!(error, InputError::Other(_)), "{error}");
    assert!(!error.may_pass());
}

#[tokio::test]
async fn what_comes_to_nothing_has_cost_as_much() {
    let scene = Scene::new().await;
    let fetcher = scene.fetcher();
    let mut spent = Spent::default();
    let good = fetcher.fetch(&input(github()), &mut spent).await.unwrap();
    let both = good.nar_size + tarball("lib-0123", &FILES).len() as u64;
    assert_eq!((spent.asked, spent.bytes, spent.wasted), (1, both, 0));

    let mut other = github();
    other["narHash"] = nar_hash(&[("other", "")]).into();
    fetcher.fetch(&input(other), &mut spent).await.unwrap_err();
    assert_eq!((spent.asked, spent.bytes, spent.wasted), (2, 2 * both, both));
    scene.hosts.put(ARCHIVE, Page::Endless);
    fetcher.fetch(&input(github()), &mut spent).await.unwrap_err();
    assert!(spent.asked == 3 && spent.wasted > both + (1 << 20), "{spent:?}");
    // Where nobody is asked, nothing is spent.
    fetcher.fetch(&input(at("https://evil.example/x.tar.gz")), &mut spent).await.unwrap_err();
    assert_eq!(spent.asked, 3);
}

#[tokio::test]
async fn what_may_pass_is_told_from_what_will_not() {
    let scene = Scene::new().await;
    for (page, may_pass) in [
        (Page::Status(404), false),
        (Page::Status(403), false),
        (Page::Status(429), true),
        (Page::Status(500), true),
        (Page::Status(503), true),
        (Page::Cut, true),
    ] {
        scene.hosts.put(ARCHIVE, page.clone());
        let error = scene.fetch(github()).await.unwrap_err();
        assert_eq!(error.may_pass(), may_pass, "{page:?}: {error}");
        assert!(!error.to_string().contains("github.com"), "{error}");
    }
    let git = json!({ "type": "git", "url": "https://github.com/acme/lib" });
    assert!(matches!(scene.fetch(git).await, Err(InputError::CachesOnly)));
}
