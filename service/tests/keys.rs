//! `larderd key`, and what a service makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicI64, atomic::Ordering},
};

use larder_protocol::{PublicKey, SigningKey};
use larder_service::{
    Service,
    clock::{Clock, from_date},
    config::Config,
};
use serde_json::Value;

const DAY: i64 = 24 * 60 * 60;

struct Data(tempfile::TempDir);

/// How a command ended: its code, and what it wrote to stdout and stderr.
type Ended = (Option<i32>, String, String);

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("keys/main.secret")
    }

    fn key(&self, args: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
        command.env_clear().env("LARDER_DATA_DIR", self.0.path()).arg("key").args(args);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// A command that does its work and prints a public key.
    fn makes(&self, args: &[&str]) -> PublicKey {
        let (code, stdout, stderr) = self.key(args);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.contains("A larderd that runs takes this up within 5 seconds, by itself."),
            "{stderr}"
        );
        stdout.trim().parse().unwrap()
    }

    #[track_caller]
    fn refuses(&self, args: &[&str], said: &str) {
        let (code, _, stderr) = self.key(args);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(said), "no {said:?} in: {stderr}");
    }

    fn list(&self) -> Vec<Value> {
        let (code, stdout, stderr) = self.key(&["list", "--json"]);
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Name and state of each key.
    fn states(&self) -> Vec<(String, String)> {
        let text = |key: &Value, what: &str| key[what].as_str().unwrap().to_owned();
        self.list().iter().map(|key| (text(key, "name"), text(key, "state"))).collect()
    }

    async fn service(&self, clock: &Arc<AtomicI64>) -> Result<Arc<Service>, String> {
        let config = Config::in_dir(self.0.path());
        Service::open(config, Clock::Set(clock.clone())).await.map_err(|error| error.to_string())
    }
}

fn clock() -> Arc<AtomicI64> {
    Arc::new(AtomicI64::new(Clock::System.now()))
}

fn names(service: &Service) -> Vec<String> {
    let cache = service.caches.named("main").unwrap();
    cache.public_keys().iter().map(|key| key.name().to_owned()).collect()
}

fn pairs(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn a_running_service_takes_up_a_rotation_and_ends_it_by_its_clock() {
    let (data, clock) = (Data::new(), clock());
    let service = data.service(&clock).await.unwrap();
    assert_eq!(names(&service), ["larder-main-1"]);

    let new = data.makes(&["rotate", "--overlap", "30d"]);
    assert_eq!(new.name(), "larder-main-2");
    clock.fetch_add(5, Ordering::SeqCst);
    assert_eq!(names(&service), ["larder-main-1", "larder-main-2"]);
    let signing = service.caches.named("main").unwrap().signing_keys();
    assert_eq!(signing.newest().unwrap().public_key(), new);

    clock.fetch_add(30 * DAY - 60, Ordering::SeqCst);
    assert_eq!(names(&service).len(), 2, "the overlap is not over");
    clock.fetch_add(120, Ordering::SeqCst);
    assert_eq!(names(&service), ["larder-main-2"]);
    let now = service.caches.named("main").unwrap().signing_keys();
    assert!(now.generation > signing.generation, "what was signed before would be served for ever");
}

#[test]
fn a_rotation_is_listed_from_its_beginning_to_its_end() {
    let data = Data::new();
    data.makes(&["generate"]);
    data.makes(&["rotate"]);
    assert_eq!(data.states(), pairs(&[("larder-main-1", "retiring"), ("larder-main-2", "signs")]));
    let until = from_date(data.list()[0]["signs_until"].as_str().unwrap()).unwrap();
    let left = until - Clock::System.now();
    assert!((89 * DAY..=90 * DAY).contains(&left), "{left}");

    // The next one cuts the overlap short, and never makes it longer.
    data.makes(&["rotate", "--overlap", "1y"]);
    assert_eq!(from_date(data.list()[0]["signs_until"].as_str().unwrap()), Some(until));
    data.makes(&["rotate", "--overlap", "0d"]);
    let expected = [
        ("larder-main-1", "retired"),
        ("larder-main-2", "retired"),
        ("larder-main-3", "retired"),
        ("larder-main-4", "signs"),
    ];
    assert_eq!(data.states(), pairs(&expected));
    let (_, text, _) = data.key(&["list"]);
    assert!(
        text.contains("\tcache main\tretired since 20") && text.contains("\tcache main\tsigns\n"),
        "{text}"
    );
    let line = text.lines().last().unwrap();
    let key = data.list()[3]["public_key"].as_str().unwrap().to_owned();
    assert_eq!(line, format!("    extra-trusted-public-keys = {key}"), "retired keys are not for nix.conf");

    data.refuses(&["remove", "larder-main-4"], "still signs");
    assert_eq!(data.key(&["remove", "larder-main-1"]).0, Some(0));
    assert_eq!(data.states(), pairs(&expected[1..]));
    assert!(!fs::read_to_string(data.file()).unwrap().contains("larder-main-1:"));
    let (_, shown, told) = data.key(&["list"]);
    let secret = fs::read_to_string(data.file()).unwrap();
    let secret = secret.lines().last().unwrap().split_once(':').unwrap().1.to_owned();
    assert!(!shown.contains(&secret[..40]) && !told.contains(&secret[..40]), "a secret is shown");
}

#[test]
fn the_audit_log_says_what_was_done_with_keys() {
    let data = Data::new();
    data.makes(&["generate", "--name", "first"]);
    data.makes(&["rotate", "--name", "second", "--overlap", "30d"]);
    let until = data.list()[0]["signs_until"].as_str().unwrap().to_owned();
    // It was to end before that already.
    let (code, _, told) = data.key(&["retire", "first", "--overlap", "60d"]);
    assert!(code == Some(0) && told.contains(&format!("first signs until {until}")), "{told}");
    assert_eq!(told.matches("takes this up").count(), 1, "{told}");
    data.makes(&["rotate", "--name", "third", "--overlap", "0d"]);
    assert_eq!(data.key(&["remove", "first"]).0, Some(0));
    data.refuses(&["remove", "third"], "still signs");
    let secret = data.0.path().join("secret");
    fs::write(&secret, SigningKey::generate("fourth").unwrap().to_secret_text()).unwrap();
    data.makes(&["import", secret.to_str().unwrap()]);

    let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
    command.env_clear().env("LARDER_DATA_DIR", data.0.path()).args(["audit", "--json"]);
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let rows: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.iter().all(|row| row["cache"] == "main" && row["actor"].as_str().unwrap().contains("user")));
    let said: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["kind"].as_str().unwrap(), row["details"]["name"].as_str().unwrap()))
        .collect();
    let expected = [
        ("key-added", "first"),
        ("key-added", "second"),
        ("key-retired", "first"),
        ("key-retired", "first"),
        ("key-added", "third"),
        ("key-retired", "first"),
        ("key-retired", "second"),
        ("key-removed", "first"),
        ("key-added", "fourth"),
    ];
    assert_eq!(said, expected);
    assert_eq!(from_date(&until), rows[2]["details"]["until"].as_i64());
    assert!(rows[8]["details"]["imported"].as_bool().unwrap());
}

#[test]
fn the_last_key_that_signs_stays() {
    let data = Data::new();
    data.makes(&["generate", "--name", "first"]);
    data.refuses(&["retire", "first"], "larderd key generate");
    data.makes(&["generate", "--name", "second"]);
    assert_eq!(data.key(&["retire", "first", "--overlap", "30d"]).0, Some(0));
    assert_eq!(data.states(), pairs(&[("first", "retiring"), ("second", "signs")]));
    data.refuses(&["retire", "second"], "the last key that signs");
    data.refuses(&["retire", "third"], "larderd key list");
    data.refuses(&["generate", "--name", "second"], "--name");
    data.refuses(&["generate", "--name", "a name"], "no key could be made");
    data.refuses(&["generate", "--cache", "other"], "there is no cache other");
}

#[tokio::test]
async fn a_key_of_nix_is_imported_as_it_is() {
    let data = Data::new();
    let (secret, public) = (data.0.path().join("nix.secret"), data.0.path().join("nix.public"));
    let mut generate = Command::new("nix-store");
    generate.args(["--generate-binary-cache-key", "cache.old.example-7"]).arg(&secret).arg(&public);
    assert!(generate.env("HOME", data.0.path()).status().unwrap().success());
    let expected = fs::read_to_string(&public).unwrap();

    // Before the service has ever run: then it is the only key.
    let imported = data.makes(&["import", secret.to_str().unwrap()]);
    assert_eq!(imported.to_string(), expected.trim());
    data.refuses(&["import", secret.to_str().unwrap()], "is there already");
    let other = SigningKey::generate("cache.old.example-7").unwrap().to_secret_text();
    fs::write(&secret, other).unwrap();
    data.refuses(&["import", secret.to_str().unwrap()], "another key named cache.old.example-7");
    assert_eq!(names(&data.service(&clock()).await.unwrap()), ["cache.old.example-7"]);

    let text = fs::read_to_string(data.file()).unwrap();
    let exposed = data.0.path().join("exposed");
    fs::write(&exposed, SigningKey::generate("exposed-1").unwrap().to_secret_text()).unwrap();
    fs::set_permissions(&exposed, Permissions::from_mode(0o644)).unwrap();
    let (code, _, told) = data.key(&["import", exposed.to_str().unwrap()]);
    assert!(code == Some(0) && told.contains("Others can read"), "{told}");

    let broken = data.0.path().join("broken");
    fs::write(&broken, text.trim().replace(':', ";")).unwrap();
    let (code, _, told) = data.key(&["import", broken.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(told.contains("nix-store --generate-binary-cache-key"), "{told}");
    assert!(!told.contains(&text.split_once(':').unwrap().1[..20]), "{told}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_others_can_reach_is_refused_with_the_remedy() {
    let (data, clock) = (Data::new(), clock());
    data.makes(&["generate"]);
    let directory = data.file().parent().unwrap().to_owned();
    assert_eq!((mode(&data.file()), mode(&directory)), (0o600, 0o700));
    for (path, good, remedy) in [(data.file(), 0o600, "chmod 600"), (directory, 0o700, "chmod 700")] {
        for bad in [good | 0o040, good | 0o004, good | 0o020] {
            fs::set_permissions(&path, Permissions::from_mode(bad)).unwrap();
            let remedy = format!("{remedy} {}", path.display());
            let refusal = data.service(&clock).await.err().unwrap();
            assert!(refusal.contains(&remedy), "{refusal}");
            data.refuses(&["rotate"], &remedy);
        }
        fs::set_permissions(&path, Permissions::from_mode(good)).unwrap();
    }
    data.service(&clock).await.unwrap();
}

#[tokio::test]
async fn a_file_that_breaks_while_the_service_runs_changes_nothing() {
    let (data, clock) = (Data::new(), clock());
    let service = data.service(&clock).await.unwrap();
    let good = fs::read_to_string(data.file()).unwrap();
    let secret = good.trim();
    for broken in ["nonsense".to_owned(), String::new(), format!("{secret} signs-until=2020-01-01T00:00:00Z")]
    {
        fs::write(data.file(), broken).unwrap();
        clock.fetch_add(5, Ordering::SeqCst);
        assert_eq!(names(&service), ["larder-main-1"]);
    }
    // But nobody starts like that.
    let refusal = data.service(&clock).await.err().unwrap();
    assert!(refusal.contains("larderd key generate --cache main"), "{refusal}");
    fs::remove_file(data.file()).unwrap();
    clock.fetch_add(5, Ordering::SeqCst);
    assert_eq!(names(&service), ["larder-main-1"]);
}
