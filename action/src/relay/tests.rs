//! The relay before caches that misbehave, and real Nix reading through it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode, header};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

use super::{Patience, Relay};

const HASH: &str = "s66mzxpvicwk07gjbjfw9izjfa797vsw";

/// Short, so that tests of waiting do not.
const PATIENCE: Patience = Patience {
    connect: Duration::from_millis(300),
    narinfo: Duration::from_millis(300),
    nar: Duration::from_millis(300),
    stall: Duration::from_millis(300),
};

/// What a cache does with a request.
#[derive(Clone)]
enum Reply {
    /// Answers.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// Promises a body, and ends after so many bytes of it.
    Cut { body: Vec<u8>, after: usize },
    /// Promises a body, and says nothing more after so many bytes of it.
    Stall { body: Vec<u8>, after: usize },
    /// Says nothing.
    Hang,
    /// Ends the connection without an answer.
    Close,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply::Answer { status, headers: Vec::new(), body: body.into() }
}

/// A request as a cache sees it: its path, and its range if it has one.
type Seen = (String, Option<String>);

/// A cache that does as it is told.
struct Cache {
    url: url::Url,
    asked: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Cache {
    async fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/main", listener.local_addr().unwrap()).parse().unwrap();
        let (asked, reply) = (Arc::new(AtomicUsize::new(0)), Arc::new(reply));
        let counter = asked.clone();
        let server = tokio::spawn(async move {
            // What is aborted with the server ends its connections too.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, counter) = (reply.clone(), counter.clone());
                connections.spawn(async move { serve(stream, &*reply, &counter).await });
            }
        });
        Self { url, asked, server }
    }

    async fn relay(&self) -> Relay {
        Relay::start(self.url.clone(), None, PATIENCE).await.unwrap()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One request a connection.
async fn serve(stream: TcpStream, reply: &(impl Fn(&Seen) -> Reply + ?Sized), asked: &AtomicUsize) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = head.lines().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned));
    let promise = |body: &[u8]| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\naccept-ranges: bytes\r\netag: \"e1\"\r\nconnection: close\r\n\r\n",
            body.len()
        )
    };
    let text = match reply(&(path, range)) {
        Reply::Hang => return std::future::pending().await,
        Reply::Close => return,
        Reply::Cut { body, after } => [promise(&body).as_bytes(), &body[..after]].concat(),
        Reply::Stall { body, after } => {
            let _ = stream.write_all(&[promise(&body).as_bytes(), &body[..after]].concat()).await;
            return std::future::pending().await;
        }
        Reply::Answer { status, headers, body } => {
            let headers: String =
                headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
                body.len()
            );
            [head.as_bytes(), &body].concat()
        }
    };
    let _ = stream.write_all(&text).await;
}

fn narinfo(hash: &str) -> String {
    format!(
        "StorePath: /nix/store/{hash}-x\nURL: nar/x.nar.zst\nCompression: zstd\n\
         NarHash: sha256:0000000000000000000000000000000000000000000000000000\nNarSize: 120\nReferences: \n"
    )
}

async fn get(relay: &Relay, path: &str) -> reqwest::Response {
    let request = reqwest::Client::new().get(format!("{}/{path}", relay.url()));
    tokio::time::timeout(Duration::from_secs(30), request.send()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_narinfo_is_never_an_error() {
    let mut replies = vec![
        Reply::Hang,
        Reply::Close,
        Reply::Cut { body: narinfo(HASH).into(), after: 20 },
        Reply::Stall { body: narinfo(HASH).into(), after: 20 },
        answer(200, "<html>please log in</html>"),
        answer(200, b"\xff\xfe".as_slice()),
        answer(200, ""),
        answer(200, narinfo("0000000000000000000000000000000a")),
        answer(200, vec![b'x'; 9 << 20]),
        Reply::Answer {
            status: 302,
            headers: vec![("location", "http://127.0.0.1:1/x".into())],
            body: vec![],
        },
    ];
    replies
        .extend([400, 401, 403, 404, 410, 418, 429, 500, 502, 503, 504].map(|status| answer(status, "no")));
    for reply in replies {
        let told = reply.clone();
        let cache = Cache::start(move |_| told.clone()).await;
        let relay = cache.relay().await;
        assert_eq!(get(&relay, &format!("{HASH}.narinfo")).await.status(), StatusCode::NOT_FOUND);
    }
    let cache = Cache::start(|_| answer(200, narinfo(HASH))).await;
    let relay = cache.relay().await;
    let given = get(&relay, &format!("{HASH}.narinfo")).await;
    assert_eq!((given.status(), given.text().await.unwrap()), (StatusCode::OK, narinfo(HASH)));
}

#[tokio::test]
async fn what_nix_asks_first_needs_no_cache() {
    let cache = Cache::start(|_| Reply::Close).await;
    let relay = cache.relay().await;
    let url = cache.url.clone();
    drop(cache);
    let info = get(&relay, "nix-cache-info").await.text().await.unwrap();
    assert_eq!(info, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    // Nobody listens there any more.
    assert!(reqwest::get(url).await.is_err());
    assert_eq!(get(&relay, &format!("{HASH}.narinfo")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&relay, "nar/x.nar.zst").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(relay.usage().failures, 2);
}

#[tokio::test]
async fn a_nar_and_its_ranges_pass_with_what_nix_needs_to_resume() {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let log = seen.clone();
    let cache = Cache::start(move |asked| {
        log.lock().unwrap().push(asked.clone());
        let common =
            [("accept-ranges", "bytes".to_owned()), ("etag", "\"e1\"".to_owned()), ("x-own", "1".into())];
        match asked.1 {
            None => Reply::Answer { status: 200, headers: common.into(), body: b"0123456789".into() },
            Some(_) => Reply::Answer {
                status: 206,
                headers: [common.into(), vec![("content-range", "bytes 4-9/10".to_owned())]].concat(),
                body: b"456789".into(),
            },
        }
    })
    .await;
    let relay = cache.relay().await;
    let whole = get(&relay, "nar/x.nar.zst").await;
    assert_eq!(whole.status(), StatusCode::OK);
    let has = |response: &reqwest::Response, name: &str, value: &str| {
        response.headers().get(name).is_some_and(|header| header == value)
    };
    assert!(has(&whole, "content-length", "10") && has(&whole, "accept-ranges", "bytes"));
    assert!(has(&whole, "etag", "\"e1\"") && !whole.headers().contains_key("x-own"));
    assert_eq!(whole.bytes().await.unwrap(), "0123456789");

    let client = reqwest::Client::new();
    let url = format!("{}/nar/x.nar.zst", relay.url());
    let part = client.get(&url).header(header::RANGE, "bytes=4-").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert!(has(&part, "content-range", "bytes 4-9/10") && has(&part, "content-length", "6"));
    assert_eq!(part.bytes().await.unwrap(), "456789");
    let head = client.head(&url).send().await.unwrap();
    assert!(head.status() == StatusCode::OK && has(&head, "content-length", "10"));
    assert_eq!(
        *seen.lock().unwrap(),
        [None, Some("bytes=4-".to_owned()), None].map(|range| ("/main/nar/x.nar.zst".to_owned(), range))
    );
    let usage = relay.usage();
    assert_eq!((usage.nars, usage.bytes, usage.failures), (1, 16, 0));
}

#[tokio::test]
async fn a_nar_that_fails_before_its_first_byte_is_absent_and_later_is_cut() {
    let body = vec![7; 1 << 20];
    for reply in [
        Reply::Hang,
        Reply::Close,
        Reply::Cut { body: body.clone(), after: 0 },
        Reply::Stall { body: body.clone(), after: 0 },
        answer(500, "no"),
        answer(429, "no"),
        answer(416, "no"),
        answer(204, ""),
    ] {
        let cache = Cache::start(move |_| reply.clone()).await;
        let relay = cache.relay().await;
        assert_eq!(get(&relay, "nar/x.nar.zst").await.status(), StatusCode::NOT_FOUND);
    }
    for reply in
        [Reply::Cut { body: body.clone(), after: 1000 }, Reply::Stall { body: body.clone(), after: 1000 }]
    {
        let cache = Cache::start(move |_| reply.clone()).await;
        let relay = cache.relay().await;
        let mut given = get(&relay, "nar/x.nar.zst").await;
        assert_eq!(given.status(), StatusCode::OK);
        let mut received = 0;
        let end = loop {
            match given.chunk().await {
                Ok(Some(part)) => received += part.len(),
                other => break other,
            }
        };
        assert!(end.is_err(), "a cut NAR must not look whole");
        assert_eq!(received, 1000);
    }
}

#[tokio::test]
async fn a_cache_that_keeps_failing_is_left_alone() {
    let cache = Cache::start(|_| answer(503, "no")).await;
    let relay = cache.relay().await;
    for _ in 0..20 {
        assert_eq!(get(&relay, &format!("{HASH}.narinfo")).await.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(cache.asked.load(Ordering::SeqCst), 3);
    assert_eq!(get(&relay, "nix-cache-info").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn only_who_knows_the_path_and_asks_this_host_is_answered() {
    let cache = Cache::start(|_| answer(200, narinfo(HASH))).await;
    let relay = cache.relay().await;
    let client = reqwest::Client::new();
    let url = format!("{}/{HASH}.narinfo", relay.url());
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS] {
        let status = client.request(method, &url).send().await.unwrap().status();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    let port = relay.url().port().unwrap();
    for (host, status) in [
        ("evil.example".to_owned(), StatusCode::FORBIDDEN),
        (format!("evil.example:{port}"), StatusCode::FORBIDDEN),
        (format!("127.0.0.1:{}", port ^ 1), StatusCode::FORBIDDEN),
        (format!("localhost:{port}"), StatusCode::OK),
    ] {
        assert_eq!(client.get(&url).header(header::HOST, host).send().await.unwrap().status(), status);
    }
    for path in ["/", "/nix-cache-info", "/0123456789abcdef0123456789abcdef/nix-cache-info"] {
        let url = relay.url().join(path).unwrap();
        assert_eq!(client.get(url).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(cache.asked.load(Ordering::SeqCst), 1, "the cache heard of none of that");
}

/// Nix in a home of its own, building as root in the machine's store.
fn nix(program: &str, home: &Path, config: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("NIX_CONF_DIR", "/var/empty")
        .env(
            "NIX_CONFIG",
            format!("build-users-group =\nsandbox = false\nexperimental-features = nix-command\n{config}"),
        )
        .kill_on_drop(true);
    command
}

async fn output(command: &mut Command) -> String {
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
}

/// Two paths in a cache on disk, no longer in the store; and the expression that makes them.
async fn cached_paths(home: &Path) -> (String, PathBuf, Vec<String>) {
    let salt = crate::random::hex(8).unwrap();
    let derive = |name: &str, script: &str| {
        format!(
            "derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
             args = [ \"-euc\" ''{script}'' ]; PATH = \"/usr/bin:/bin\"; salt = \"{salt}\"; }}"
        )
    };
    let leaf = derive("relay-leaf", "head -c 3000000 /dev/urandom > $out");
    let top = derive("relay-top", &format!("mkdir $out; ln -s ${{{leaf}}} $out/leaf"));
    let off = "substitute = false\n";
    let built = output(nix("nix-build", home, off).args(["--no-out-link", "-E", &top])).await;
    let top_path = built.lines().find(|line| line.starts_with("/nix/store/")).unwrap().to_owned();
    let closure = output(nix("nix-store", home, off).args(["-qR", &top_path])).await;
    let paths: Vec<String> = closure.lines().map(str::to_owned).collect();
    assert_eq!(paths.len(), 2);
    let dir = home.join("cache");
    let to = format!("file://{}?compression=none", dir.display());
    output(nix("nix", home, off).args(["copy", "--to", &to, &top_path])).await;
    output(nix("nix-store", home, off).args(["--delete", "--ignore-liveness"]).args(&paths)).await;
    (top, dir, paths)
}

/// The settings that main writes, without keys.
fn reading_from(relay: &Relay) -> String {
    format!(
        "substituters = {}\nrequire-sigs = false\nfallback = true\nconnect-timeout = 5\n\
         narinfo-cache-negative-ttl = 0\n",
        relay.url()
    )
}

/// What a cache has on disk.
fn on_disk(dir: &Path, asked: &Seen) -> Reply {
    match std::fs::read(dir.join(asked.0.trim_start_matches("/main/"))) {
        Ok(body) => answer(200, body),
        Err(_) => answer(404, ""),
    }
}

#[tokio::test]
async fn nix_reads_through_the_relay() {
    let home = tempfile::tempdir().unwrap();
    let (top, dir, paths) = cached_paths(home.path()).await;
    let cache = Cache::start(move |asked| on_disk(&dir, asked)).await;
    let relay = cache.relay().await;
    let said =
        output(nix("nix-build", home.path(), &reading_from(&relay)).args(["--no-out-link", "-E", &top]))
            .await;
    assert!(said.contains("copying path") && !said.contains("building"), "{said}");
    assert_eq!(relay.usage().nars, 2);
    output(nix("nix-store", home.path(), "").args(["--delete", "--ignore-liveness"]).args(&paths)).await;
}

/// However the cache dies while Nix reads from it, Nix builds instead.
#[tokio::test]
async fn builds_go_on_when_the_cache_dies_under_nix() {
    type Death = fn(&Path, &Seen) -> Reply;
    let deaths: [(&str, Death); 5] = [
        ("absent NARs", |_, asked| {
            if asked.0.contains(".nar") && !asked.0.ends_with(".narinfo") {
                answer(404, "")
            } else {
                answer(500, "")
            }
        }),
        ("errors for narinfos", |_, _| answer(503, "")),
        ("errors for NARs", |dir, asked| {
            if asked.0.ends_with(".narinfo") { on_disk(dir, asked) } else { answer(500, "") }
        }),
        ("cut, then errors", |dir, asked| match on_disk(dir, asked) {
            Reply::Answer { body, .. } if !asked.0.ends_with(".narinfo") && body.len() > 2_000_000 => {
                match asked.1 {
                    None => Reply::Cut { body, after: 1_000_000 },
                    Some(_) => answer(502, ""),
                }
            }
            other => other,
        }),
        ("stalls, then silence", |dir, asked| match on_disk(dir, asked) {
            Reply::Answer { body, .. } if !asked.0.ends_with(".narinfo") => match asked.1 {
                None => Reply::Stall { after: body.len() / 2, body },
                Some(_) => Reply::Hang,
            },
            other => other,
        }),
    ];
    for (death, reply) in deaths {
        let home = tempfile::tempdir().unwrap();
        let (top, dir, paths) = cached_paths(home.path()).await;
        let cache = Cache::start(move |asked| reply(&dir, asked)).await;
        let relay = cache.relay().await;
        let said =
            output(nix("nix-build", home.path(), &reading_from(&relay)).args(["--no-out-link", "-E", &top]))
                .await;
        assert!(said.contains("building"), "{death}: {said}");
        output(nix("nix-store", home.path(), "").args(["--delete", "--ignore-liveness"]).args(&paths)).await;
    }
}
