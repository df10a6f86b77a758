//! What the service needs to start, what it makes, and how it ends: as a library and as `larderd`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use larder_service::{Service, clock::Clock, config::Config};

async fn open(directory: &Path) -> Result<std::sync::Arc<Service>, String> {
    Service::open(Config::in_dir(directory), Clock::System).await.map_err(|error| error.to_string())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_made_is_for_its_owner_alone_and_stays() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("some/where");
    let key = |service: &Service| service.caches.iter().next().unwrap().public_keys()[0].to_string();
    let service = open(&data).await.unwrap();
    let first = key(&service);
    assert!(first.starts_with("larder-main-1:"), "{first}");
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("larder.db")), 0o600);
    assert_eq!(mode(&data.join("keys")), 0o700);
    assert_eq!(mode(&data.join("keys/main.secret")), 0o600);
    service.metadata.close().await;
    drop(service);
    assert_eq!(key(&open(&data).await.unwrap()), first);
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    open(scratch.path()).await.unwrap().metadata.close().await;
    let file = scratch.path().join("keys/main.secret");
    for exposed in [0o640, 0o604, 0o660] {
        fs::set_permissions(&file, fs::Permissions::from_mode(exposed)).unwrap();
        let refusal = open(scratch.path()).await.err().unwrap();
        assert!(refusal.contains(&format!("chmod 600 {}", file.display())), "{refusal}");
    }
    let text = fs::read_to_string(&file).unwrap();
    let secret = text.trim().split_once(':').unwrap().1;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for broken in ["", "nonsense", &text[..40], &text.replace(':', " ")] {
        fs::write(&file, broken).unwrap();
        let refusal = open(scratch.path()).await.err().unwrap();
        assert!(refusal.contains("main.secret") && !refusal.contains(&secret[..20]), "{refusal}");
    }
    // A second key, for readers that know it already: both sign.
    let second = larder_protocol::SigningKey::generate("second-1").unwrap().to_secret_text();
    fs::write(&file, format!("{text}\n{second}\n")).unwrap();
    let service = open(scratch.path()).await.unwrap();
    assert_eq!(service.caches.iter().next().unwrap().signing_keys().keys.len(), 2);
}

/// `larderd`, with nothing of the environment but what is said here.
fn larderd(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
    command.env_clear().env("LARDER_DATA_DIR", data).env("LARDER_LISTEN", "127.0.0.1:0");
    command
}

#[test]
fn whoever_comes_first_makes_the_database_and_nobody_else_is_in_its_way() {
    let data = tempfile::tempdir().unwrap();
    // So it is in the moment after a first start made the file, and before it makes the tables.
    std::fs::File::create(data.path().join("larder.db")).unwrap();
    let create = |number: u32| {
        let mut command = larderd(data.path());
        command.args(["token", "create", &format!("person-{number}")]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<Child> = (0..8).map(create).collect();
    for one in all {
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A running `larderd`, killed when it is dropped.
struct Running {
    child: Child,
    address: String,
    said: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        let address = said.trim().strip_prefix("larderd listens on http://").expect(&said).to_owned();
        // The rest of what it prints ends with an empty line before it serves.
        while stdout.read_line(&mut said).unwrap() > 0 && !said.contains("For a person:") {}
        Self { child, address, said }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn stop(mut self) -> (Option<i32>, String) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn larderd_starts_without_a_configuration_and_says_what_to_do_next() {
    let data = tempfile::tempdir().unwrap();
    let running = Running::start(&mut larderd(data.path()));
    let url = format!("http://{}/main", running.address);
    for line in [
        &format!("    extra-substituters = {url}\n"),
        "    extra-trusted-public-keys = larder-main-1:",
        "    fallback = true\n",
        "    connect-timeout = 5\n",
        "    narinfo-cache-negative-ttl = 0\n",
        "      id-token: write\n",
        "    [[cache.trust]]\n",
    ] {
        assert!(running.said.contains(line), "no {line:?} in:\n{}", running.said);
    }
    for (path, answer) in [("/healthz", "ok\n"), ("/readyz", "ready\n"), ("/", "Larder, a binary cache")] {
        let answered = running.get(path);
        assert!(answered.starts_with("HTTP/1.1 200") && answered.contains(answer), "{answered}");
    }
    running.get("/secret?token=larder_s_x");

    let (status, _, refusal) = texts(larderd(data.path()).output().unwrap());
    assert_eq!(status, Some(1));
    assert!(refusal.contains("another larderd uses"), "{refusal}");

    let (status, log) = running.stop();
    assert_eq!(status, Some(0), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" request ")).collect();
    assert_eq!(lines.len(), 4, "one line a request:\n{log}");
    assert!(
        lines[0].contains("method=GET")
            && lines[0].contains("path=\"/healthz\"")
            && lines[0].contains("status=200")
    );
    assert!(!log.contains("larder_s_x"), "{log}");
    assert!(!fs::exists(data.path().join("larder.db-wal")).unwrap(), "the database was not closed");
}

#[test]
fn a_request_under_way_is_finished_before_the_end() {
    let data = tempfile::tempdir().unwrap();
    let mut running = Running::start(larderd(data.path()).env("LARDER_LOG_FORMAT", "json"));
    let mut stream = TcpStream::connect(&running.address).unwrap();
    // The head alone: the request waits for its body.
    write!(
        stream,
        "POST /api/v1/token HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    )
    .unwrap();
    let mut answer = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    answer.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");

    let mut log = BufReader::new(running.child.stderr.take().unwrap());
    let id = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let mut said = String::new();
    while !said.contains("\"stopping\"") {
        assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
    }
    write!(stream, "{{}}").unwrap();
    let mut rest = String::new();
    answer.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 400") && rest.contains("missing field"), "{rest}");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    log.read_to_string(&mut said).unwrap();
    for line in said.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_with_its_exit_code() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("larder.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        texts(larderd(data.path()).args(["check-config", "--config"]).arg(&file).output().unwrap())
    };
    let (status, said, _) = check("[[cache]]\nname = \"mine\"");
    assert_eq!(status, Some(0));
    assert!(said.contains("The configuration is right") && said.contains("cache mine"), "{said}");
    let (status, said, refusal) = check("[[cache]]\nname = \"mine\"\npriority = 50");
    assert_eq!((status, said.as_str()), (Some(78), ""));
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    let (status, _, refusal) = check("naem = 1");
    assert_eq!(status, Some(78));
    assert!(refusal.contains("naem"), "{refusal}");

    let (status, _, refusal) =
        texts(larderd(data.path()).env("LARDER_LOG", "no such=filter=x").output().unwrap());
    assert_eq!(status, Some(78));
    assert!(refusal.contains("LARDER_LOG"), "{refusal}");
    let (status, ..) = texts(larderd(data.path()).arg("--nonsense").output().unwrap());
    assert_eq!(status, Some(2));
    assert!(!data.path().join("larder.db").exists(), "nothing was started");
}

#[test]
fn tokens_for_people_are_printed_once() {
    let data = tempfile::tempdir().unwrap();
    let token =
        |arguments: &[&str]| texts(larderd(data.path()).arg("token").args(arguments).output().unwrap());
    let (status, _, refusal) = token(&["create", "anna"]);
    assert_eq!(status, Some(1));
    assert!(refusal.contains("no larder.db") && refusal.contains("LARDER_DATA_DIR"), "{refusal}");
    Running::start(&mut larderd(data.path())).stop();

    let (status, token_text, hint) = token(&["create", "anna", "--for", "30d"]);
    assert_eq!(status, Some(0), "{hint}");
    assert!(token_text.starts_with("larder_t_") && token_text.lines().count() == 1);
    assert!(
        !hint.contains(token_text.trim()) && hint.contains("permits push, read in the cache main"),
        "{hint}"
    );
    let (_, list, _) = token(&["list"]);
    assert_eq!(list, "anna\tcache main\tpush, read\trank 0\tends in 30 d\n");
    assert_eq!(token(&["create", "anna"]).0, Some(1));
    assert_eq!(token(&["create", "bert", "--cache", "nowhere"]).0, Some(1));
    assert_eq!(token(&["create", "bert", "--for", "100y"]).0, Some(2));
    let (status, _, remedy) = token(&["create", "bert", "--permission", "root"]);
    assert!(status == Some(2) && remedy.contains("push, pin, read or admin"), "{remedy}");
    let (status, _, hint) = token(&["create", "bert", "--permission", "push,admin"]);
    assert!(status == Some(0) && hint.contains("permits push, admin in the cache main"), "{hint}");
    assert_eq!(token(&["revoke", "bert"]).0, Some(0));
    assert_eq!(token(&["revoke", "anna"]).0, Some(0));
    assert_eq!(token(&["revoke", "anna"]).0, Some(1));
    assert_eq!(token(&["list"]).1, "");
    let database = fs::read(data.path().join("larder.db")).unwrap();
    let secret = token_text.trim().strip_prefix("larder_t_").unwrap().as_bytes();
    assert!(!database.windows(secret.len()).any(|window| window == secret));
}

#[test]
fn the_audit_log_is_read_while_the_service_runs_and_without_it() {
    let data = tempfile::tempdir().unwrap();
    let audit =
        |arguments: &[&str]| texts(larderd(data.path()).arg("audit").args(arguments).output().unwrap());
    assert!(audit(&[]).2.contains("no larder.db"));
    let running = Running::start(&mut larderd(data.path()));
    for name in ["anna", "bert"] {
        let created =
            texts(larderd(data.path()).args(["token", "create", name, "--for", "1d"]).output().unwrap());
        assert_eq!(created.0, Some(0), "{}", created.2);
    }
    let (status, said, _) = audit(&["--since", "1h", "--cache", "main"]);
    assert_eq!(status, Some(0));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for (line, name) in lines.iter().zip(["anna", "bert"]) {
        assert!(line.contains("  token-created   main  by larderd, run by user "), "{line}");
        assert!(line.contains(&format!("  {name}: push, read")), "{line}");
    }

    // A request with no good token goes on record before the service ends.
    let mut stream = TcpStream::connect(&running.address).unwrap();
    write!(
        stream,
        "POST /api/v1/caches/main/pushes HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.9\r\n\
         authorization: Bearer nonsense\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let (_, log) = running.stop();
    assert!(log.contains("kind=\"denied\"") && log.contains("address=203.0.113.9"), "{log}");

    let (_, said, hint) = audit(&["--json", "--limit", "1"]);
    let denied: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&denied["kind"], &denied["address"]), (&"denied".into(), &"203.0.113.9".into()));
    assert!(denied["details"]["reason"].as_str().unwrap().contains("not a token"), "{denied}");
    assert!(hint.contains("--limit"), "{hint}");
    assert_eq!(audit(&["--kind", "token-created"]).1.lines().count(), 2);
    assert_eq!(audit(&["--repository", "acme/flake"]).1, "");
    assert_eq!(audit(&["--until", "2001-01-01"]).1, "");
    assert_eq!(audit(&["--kind", "nonsense"]).0, Some(2));
    assert_eq!(audit(&["--since", "yesterday"]).0, Some(2));
}

#[test]
fn help_and_completions_are_for_newcomers() {
    let data = tempfile::tempdir().unwrap();
    let (status, help, _) = texts(larderd(data.path()).arg("--help").output().unwrap());
    assert_eq!(status, Some(0));
    for part in ["Examples:", "[[cache.trust]]", "LARDER_DATA_DIR", "Exit codes:"] {
        assert!(help.contains(part), "{part}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (status, script, _) = texts(larderd(data.path()).args(["completions", shell]).output().unwrap());
        assert!(status == Some(0) && script.contains("check-config"), "{shell}");
    }
}

#[test]
fn space_is_given_back_by_hand_beside_the_service_and_without_it() {
    let data = tempfile::tempdir().unwrap();
    let call = |arguments: &[&str]| texts(larderd(data.path()).args(arguments).output().unwrap());
    assert_eq!(call(&["sweep", "--dry-run"]).0, Some(1), "there is no database yet");
    let running = Running::start(&mut larderd(data.path()));
    let report = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["caches"][0].clone();
    let (status, said, refusal) = call(&["sweep", "--json"]);
    assert_eq!(status, Some(0), "{refusal}");
    assert_eq!(report(&said)["cache"], "main");
    running.stop();
    let (status, said, refusal) = call(&["sweep", "--json"]);
    assert_eq!(status, Some(0), "{refusal}");
    assert_eq!(report(&said)["kept"], 0);
    let (status, said, _) = call(&["sweep", "--dry-run"]);
    assert!(status == Some(0) && said.contains("main: 0 paths"), "{said}");
    assert_eq!(call(&["roots", "list", "--json"]).1, "");
    let (status, _, refusal) = call(&["roots", "drop", "acme/flake", "--ref", "refs/heads/topic"]);
    assert!(status == Some(1) && refusal.contains("larderd roots list"), "{refusal}");
    let path = "/nix/store/0000000000000000000000000000000a-hello";
    let (status, _, refusal) = call(&["why-alive", path]);
    assert!(status == Some(1) && refusal.contains("does not have it"), "{refusal}");
    assert_eq!(call(&["why-dead", path]).0, Some(1));
    assert_eq!(call(&["why-dead", path, "--cache", "nowhere"]).0, Some(1));
}
