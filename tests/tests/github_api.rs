//! How the service asks GitHub: the real octocrab, and a stand-in that is as strict as GitHub.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use larder_service::{
    clock::Clock,
    config::{Config, Environment},
    forge::{ForgeError, GitHub as Api},
    identity::RepositoryName,
};
use larder_tests::{
    github::{App, GitHub},
    world::secret_file,
};
use tempfile::TempDir;

const NOW: i64 = 1_790_078_400;
const HOUR: i64 = 60 * 60;
const SHA: &str = "4f0c1ad5cb8cb3a21d5b7e1f8d2a0e6b9c3d7a11";
const LOCK: &[u8] = br#"{ "version": 7 }"#;

struct Scene {
    github: GitHub,
    api: Api,
    time: Arc<AtomicI64>,
}

impl Scene {
    async fn new(set_up: impl FnOnce(&GitHub) -> Option<App>) -> Self {
        let time = Arc::new(AtomicI64::new(NOW));
        let clock = Clock::Set(time.clone());
        let github = GitHub::start(clock.clone()).await;
        github.add_repository("acme/open");
        github.add_private_repository("acme/flake");
        for name in ["acme/open", "acme/flake"] {
            github.commit(name, "refs/heads/main", SHA, &[("flake.lock", LOCK), ("a dir/ä?#", b"odd")]);
        }
        let app = set_up(&github);
        let key = TempDir::new().unwrap();
        let config = configure(&github, app.as_ref(), key.path()).unwrap();
        let api = Api::new(&config.github, clock).unwrap();
        Self { github, api, time }
    }

    async fn lock(&self, repository: &str) -> Result<Option<Vec<u8>>, ForgeError> {
        let file = self.api.contents(&name(repository), "flake.lock", SHA, 1000).await?;
        Ok(file.map(|bytes| bytes.to_vec()))
    }

    /// Who asked for what since the last time, without the queries.
    fn asked(&self) -> Vec<String> {
        let requests = self.github.api_requests();
        requests.iter().map(|request| request.split('?').next().unwrap().to_owned()).collect()
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// A configuration for the stand-in, as the App.
fn configure(github: &GitHub, app: Option<&App>, folder: &Path) -> Result<Config, String> {
    let mut text = format!("[github]\napi_url = \"{}\"\n", github.api_url());
    if let Some(App { id, private_key }) = app {
        let file = secret_file(&folder.join("key.pem"), private_key);
        text.push_str(&format!("app_id = {id}\nprivate_key_file = \"{file}\"\n"));
    }
    let environment = Environment::from([("LARDER_DATA_DIR", folder.to_str().unwrap())]);
    Config::parse(Path::new("larder.toml"), &text, &environment).map_err(|error| error.to_string())
}

fn reader(github: &GitHub) -> Option<App> {
    let app = github.register_app(&[("contents", "read"), ("checks", "write"), ("issues", "write")]);
    github.install(&app, "acme", Some(&["acme/flake"]));
    Some(app)
}

#[tokio::test]
async fn a_private_repository_is_read_with_a_token_for_that_alone() {
    let scene = Scene::new(reader).await;
    assert_eq!(scene.lock("acme/flake").await.unwrap().unwrap(), LOCK);
    let odd = scene.api.contents(&name("acme/flake"), "a dir/ä?#", SHA, 1000).await.unwrap();
    assert_eq!(odd.as_deref(), Some(&b"odd"[..]));
    assert_eq!(scene.api.contents(&name("acme/flake"), "none", SHA, 1000).await.unwrap(), None);
    let asked = scene.asked();
    assert_eq!(asked[0], "app: GET /repos/acme/flake/installation");
    assert!(asked[1].starts_with("app: POST /app/installations/") && asked[1].ends_with("/access_tokens"));
    assert_eq!(asked.len(), 5, "one token serves three questions: {asked:#?}");
    let narrowed = scene.github.token_scopes();
    assert_eq!(narrowed, [("acme/flake".to_owned(), "contents=read".to_owned())]);

    let tarball = scene.api.tarball(&name("acme/flake"), SHA).await.unwrap().unwrap();
    assert!(tarball.query().unwrap().starts_with("token="), "{tarball}");
    assert_eq!(reqwest::get(tarball).await.unwrap().status(), 200);
    let larger = scene.api.contents(&name("acme/flake"), "flake.lock", SHA, LOCK.len() - 1).await;
    assert!(matches!(larger, Err(ForgeError::TooLarge(_))), "{larger:?}");
}

#[tokio::test]
async fn a_token_is_used_until_shortly_before_its_end() {
    let scene = Scene::new(reader).await;
    let tokens = async |after: i64| {
        scene.time.fetch_add(after, Ordering::SeqCst);
        scene.lock("acme/flake").await.unwrap().unwrap();
        scene.asked().iter().filter(|asked| asked.ends_with("/access_tokens")).count()
    };
    assert_eq!(tokens(0).await, 1);
    assert_eq!(tokens(HOUR - 5 * 60 - 1).await, 1);
    assert_eq!(tokens(1).await, 2);
    // It was taken back: another is asked for, once.
    scene.github.revoke_tokens();
    assert_eq!(tokens(0).await, 3);
}

#[tokio::test]
async fn what_is_public_is_read_by_whoever_has_no_app() {
    let scene = Scene::new(|_| None).await;
    assert_eq!(scene.lock("acme/open").await.unwrap().unwrap(), LOCK);
    assert_eq!(scene.lock("acme/flake").await.unwrap(), None);
    assert!(scene.asked().iter().all(|asked| asked.starts_with("nobody: ")));
    // An App that is not installed there, or may not read, asks like everybody too.
    for permissions in [&[("contents", "read")][..], &[("checks", "write")]] {
        let scene = Scene::new(|github| {
            let app = github.register_app(permissions);
            let covered = if permissions[0].0 == "checks" { "acme/open" } else { "acme/flake" };
            github.install(&app, "acme", Some(&[covered]));
            Some(app)
        })
        .await;
        assert_eq!(scene.lock("acme/open").await.unwrap().unwrap(), LOCK);
    }
}

#[tokio::test]
async fn a_spent_limit_is_respected_until_it_is_over() {
    let scene = Scene::new(reader).await;
    scene.lock("acme/flake").await.unwrap();
    scene.github.limit_requests(1);
    scene.lock("acme/flake").await.unwrap();
    let asked = scene.asked().len();
    let refused = scene.lock("acme/flake").await;
    assert!(matches!(refused, Err(ForgeError::Limited { until }) if until == NOW + HOUR), "{refused:?}");
    assert_eq!(scene.asked().len(), asked, "GitHub was asked although it said that nothing is left");
    // Its token is over then too, for which the App itself asks.
    scene.github.limit_requests(100);
    scene.time.fetch_add(HOUR - 1, Ordering::SeqCst);
    assert!(scene.lock("acme/flake").await.is_err());
    scene.time.fetch_add(1, Ordering::SeqCst);
    scene.lock("acme/flake").await.unwrap().unwrap();
}

#[tokio::test]
async fn who_asks_too_much_at_once_waits_longer_and_longer() {
    let scene = Scene::new(|_| None).await;
    let wait = async || match scene.lock("acme/open").await {
        Err(ForgeError::Limited { until }) => until - scene.time.load(Ordering::SeqCst),
        other => panic!("{other:?}"),
    };
    scene.github.pause_requests(30, true);
    assert_eq!(wait().await, 30);
    scene.time.fetch_add(30, Ordering::SeqCst);
    scene.lock("acme/open").await.unwrap().unwrap();

    scene.github.pause_requests(1000, false);
    for expected in [60, 120, 240] {
        assert_eq!(wait().await, expected);
        assert_eq!(wait().await, expected, "asked although it was to wait");
        scene.time.fetch_add(expected, Ordering::SeqCst);
    }
    scene.time.fetch_add(1000, Ordering::SeqCst);
    scene.lock("acme/open").await.unwrap().unwrap();
}

#[tokio::test]
async fn a_configuration_that_cannot_be_says_what_to_do() {
    let github = GitHub::start(Clock::System).await;
    let app = github.register_app(&[]);
    let folder = TempDir::new().unwrap();
    assert!(configure(&github, Some(&app), folder.path()).unwrap().github.app.is_some());
    let file = folder.path().join("key.pem");
    let problem = |text: &str| {
        let environment = Environment::from([("LARDER_DATA_DIR", "/nowhere")]);
        let config = Config::parse(Path::new("larder.toml"), &format!("[github]\n{text}"), &environment);
        config.unwrap_err().to_string()
    };
    let with_key = format!("app_id = 7\nprivate_key_file = \"{}\"", file.display());
    for mode in [0o644, 0o604, 0o620] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let said = problem(&with_key);
        assert!(said.starts_with("github.private_key_file: ") && said.contains("chmod 600"), "{said}");
    }
    fs::write(&file, "-----BEGIN RSA PRIVATE KEY-----\nthe secret\n-----END RSA PRIVATE KEY-----\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let said = problem(&with_key);
    assert!(said.contains("is no RSA key in PEM") && !said.contains("the secret"), "{said}");
    for (text, expected) in [
        ("app_id = 7", "github.private_key_file: is missing"),
        ("private_key_file = \"/x\"", "github.app_id: is missing"),
        ("app_id = \"7; 8\"\nprivate_key_file = \"/x\"", "github.app_id: \"7; 8\" is no App's number"),
        ("app_id = 7\nprivate_key_file = \"/no/such\"", "/no/such cannot be read"),
        (
            "api_url = \"http://github.example.org\"",
            "github.api_url: \"http://github.example.org\" will not do",
        ),
    ] {
        let said = problem(text);
        assert!(said.contains(expected), "{said}");
    }
    let shown = format!("{:?}", configure(&github, Some(&app), folder.path()).unwrap());
    assert!(shown.contains("AppConfig") && !shown.contains("BEGIN"), "{shown}");
}
