use std::{fs, process::Stdio};

use larder_protocol::narinfo::NarInfo;
use larder_tests::{
    github::Job,
    larder::Push,
    nix::{Nix, Reader, ScratchStore, build, closure, delete, derivation, run},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::scene::{Scenery, files};

/// Any web server: one that knows nothing of Nix. Killed when dropped.
async fn web_server(folder: &std::path::Path) -> (Child, String) {
    let mut server = Command::new("python3");
    server.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(folder);
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let line = BufReader::new(server.stdout.take().unwrap()).lines().next_line().await.unwrap().unwrap();
    let url = line.split(['(', ')']).nth(1).expect(&line).trim_end_matches('/').to_owned();
    (server, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_reads_from_a_mirror_what_the_service_has_served() {
    let mut scenery = Scenery::start().await;
    // More than is written at once.
    let base = derivation("base", &[], "mkdir $out; head -c 12000000 /dev/urandom > $out/noise");
    let script = "mkdir $out; ln -s $in0 $out/base; seq 1 90000 | sed \"s,\\$, $in0,\" > $out/many";
    let top = build(&derivation("top", &[&base], script)).await;
    let whole = closure(&top).await;
    let job = scenery.github.start_job(Job::default());
    Push::in_job(&scenery.larderd.url(), &job).args(&top).report().await;

    let planned = scenery.mirror(&["--dry-run"]).await.expect_success();
    assert!(planned.contains("main: 2 paths would be in file://"), "{planned}");
    assert!(!scenery.folder().exists());

    let first = scenery.report(&[]).await;
    assert_eq!((&first["paths"], &first["added"], &first["nars_written"]), (&2.into(), &2.into(), &2.into()));
    let before = files(&scenery.folder());
    assert_eq!(before.len(), 6, "{before:?}");
    for name in before.keys().filter(|name| name.ends_with(".narinfo")) {
        let served = reqwest::get(format!("{}/main/{name}", scenery.larderd.url())).await.unwrap();
        let served = served.text().await.unwrap();
        assert_eq!(served, fs::read_to_string(scenery.folder().join(name)).unwrap());
        let narinfo = NarInfo::parse(&served).unwrap();
        let keys = scenery.keys();
        assert!(
            narinfo.signatures.iter().any(|signature| keys[0].verifies(&narinfo.fingerprint(), signature))
        );
    }
    // Asked after the service, which has 30, and before the public cache.
    let info = fs::read_to_string(scenery.folder().join("nix-cache-info")).unwrap();
    assert_eq!(info, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 31\n");

    let again = scenery.mirror(&[]).await.expect_success();
    assert!(again.ends_with("; nothing changed\n"), "{again}");
    assert_eq!(files(&scenery.folder()), before, "something was written again");

    let by_file = scenery.reader().await;
    scenery.larderd.kill().await;
    let (_server, url) = web_server(&scenery.folder()).await;
    let by_http = Reader { substituters: vec![url], ..by_file.clone() };
    let store = ScratchStore::new(Nix::Installed);
    store.realise(&by_file, &top).await.expect_success();
    store.verify().await;
    for path in &whole {
        let mut compare = Command::new("diff");
        run(compare.args(["-r", "--no-dereference"]).arg(path).arg(store.real_path(path)))
            .await
            .expect_success();
    }
    for reader in [&by_file, &by_http] {
        let store = ScratchStore::new(Nix::Installed);
        store.copy_from(reader, &top).await.expect_success();
        store.verify().await;
        assert!(whole.iter().all(|path| store.has(path)));
        let stranger = Reader { public_keys: Vec::new(), ..reader.clone() };
        assert!(!ScratchStore::new(Nix::Installed).copy_from(&stranger, &top).await.success);
    }
    delete(&whole).await;
}
