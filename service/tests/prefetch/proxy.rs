//! The program itself, where the environment names a proxy.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use larder_protocol::{
    api::{OpenPush, OpenedPush},
    prefetch::{Prefetch, PrefetchState},
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    nar::{TestNar, path},
    upstream::UpstreamCache,
};

/// Killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn no_proxy_is_told_what_upstreams_are_asked() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", trap.local_addr().unwrap());
    let caught = Arc::new(AtomicUsize::new(0));
    let count = caught.clone();
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let upstream = UpstreamCache::start().await;
    let nars = [TestNar::new(path(1, "x"), b"x", &[]), TestNar::new(path(2, "y"), b"y", &[])];
    nars.iter().for_each(|nar| upstream.has(nar, "xz"));
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("larder.toml");
    let text = format!(
        "data_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n[[cache]]\nname = \"main\"\n[[cache.upstream]]\nurl = \"{}\"\n\
         public_keys = [\"{}\"]\n",
        data.path().display(),
        upstream.url,
        upstream.key.public_key()
    );
    std::fs::write(&config, text).unwrap();
    let larderd = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
        command.env_clear().arg("--config").arg(&config);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &proxy);
        }
        command
    };
    let mut running = Running(larderd().stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let url = said.next().unwrap().unwrap().trim().trim_start_matches("larderd listens on ").to_owned();
    let created = larderd().args(["token", "create", "anna", "--permission", "push"]).output().unwrap();
    let created = String::from_utf8(created.stdout).unwrap();
    let token = created.split_whitespace().last().unwrap();
    // Somebody must go on reading what it prints.
    std::thread::spawn(move || said.count());

    let client = reqwest::Client::new();
    let prefetches = format!("{url}/api/v1/prefetches");
    let asked = json!({ "cache": "main", "paths": [nars[0].info.path] });
    let asked = client.post(&prefetches).bearer_auth(token).json(&asked).send().await.unwrap();
    let mut told: Prefetch = asked.json().await.unwrap();
    while !told.state.has_ended() && told.error.is_none() {
        let asked = client.get(format!("{prefetches}/{}", told.id)).bearer_auth(token).send();
        told = asked.await.unwrap().json().await.unwrap();
    }
    assert_eq!((told.state, told.published), (PrefetchState::Complete, 1), "{told:?}");
    let open = OpenPush {
        paths: vec![nars[1].info.clone()],
        roots: vec![nars[1].info.path.clone()],
        ..OpenPush::default()
    };
    let pushes = format!("{url}/api/v1/caches/main/pushes");
    let opened = client.post(pushes).bearer_auth(token).json(&open).send().await.unwrap();
    let opened: OpenedPush = opened.json().await.unwrap();
    assert_eq!(opened.upstream, [nars[1].info.path.hash()]);
    assert_eq!(caught.load(Ordering::SeqCst), 0);
}
