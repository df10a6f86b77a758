//! Verifying, backing up and restoring, with the real programs and real Nix.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_service::clock::Clock;
use larder_tests::{
    github::{GitHub, Job},
    larder::Push,
    larderd::Larderd,
    nix::{Nix, Output, ScratchStore, build, closure, delete, derivation, run},
    programs::{program, repository},
    world::{Scene, reader, secret_file},
};
use tempfile::TempDir;
use tokio::process::Command;

/// A secret that a service manager hands to the service alone.
const WEBHOOK: &str = r#"
[[webhook]]
repositories = ["acme/flake"]
secrets = [{ file = "DIR/secret" }]
"#;

struct Machine {
    dir: TempDir,
    github: GitHub,
    larderd: Larderd,
}

impl Machine {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let github = GitHub::start(Clock::System).await;
        let scene = Scene::saying(&WEBHOOK.replace("DIR", &dir.path().display().to_string()));
        secret_file(&dir.path().join("secret"), "a secret of sixteen bytes or more");
        let larderd = Larderd::start(dir.path(), github.issuer(), &scene).await;
        Self { dir, github, larderd }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn push(&self, roots: &[PathBuf]) {
        Push::in_job(&self.larderd.url(), &self.github.start_job(Job::default())).args(roots).report().await;
    }

    async fn larderd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("larderd"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--config")
            .arg(self.dir.path().join("larder.toml"));
        run(command.args(arguments)).await
    }

    /// Nix reads the closure into an empty store, and every file is as it is in this machine's.
    async fn assert_reads_back(&self, roots: &[PathBuf]) {
        let store = ScratchStore::new(Nix::Installed);
        store.realise(&reader(&self.larderd.url(), "main").await, roots).await.expect_success();
        store.verify().await;
        for path in closure(roots).await {
            let mut compare = Command::new("diff");
            run(compare.args(["-r", "--no-dereference"]).arg(&path).arg(store.real_path(&path)))
                .await
                .expect_success();
        }
    }
}

/// A closure of two paths, of which one refers to the other.
async fn build_closure() -> Vec<PathBuf> {
    let base = derivation("base", &[], "mkdir $out; seq 1 200000 > $out/numbers");
    let script = "mkdir $out; ln -s $in0 $out/base; seq 1 90000 | sed \"s,\\$, $in0,\" > $out/many";
    let top = build(&derivation("top", &[&base], script)).await;
    let whole = closure(&top).await;
    assert_eq!(whole.len(), 2, "{whole:?}");
    whole
}

/// Objects with the newest first.
fn frames(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("objects/frames/0")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).unwrap().modified().unwrap()));
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_beside_the_running_service_and_the_next_push_mends_it() {
    let machine = Machine::start().await;
    let roots = build_closure().await;
    machine.push(&roots).await;
    machine.assert_reads_back(&roots).await;
    let right = machine.larderd(&["verify"]).await;
    assert!(right.success, "{right:?}");
    assert!(right.stdout.contains("2 NARs"), "{}", right.stdout);

    let file = frames(&machine.data()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[3000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let wrong = machine.larderd(&["verify", "--json"]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("wait for a push"), "{}", wrong.stderr);
    let report: serde_json::Value = serde_json::from_str(&wrong.stdout).unwrap();
    assert_eq!(report["withdrawn"], 1, "{report}");
    let mut absent = 0;
    for root in &roots {
        let hash = &root.file_name().unwrap().to_str().unwrap()[..32];
        let page = format!("{}/main/{hash}.narinfo", machine.larderd.url());
        absent += usize::from(reqwest::get(page).await.unwrap().status() == 404);
    }
    assert_eq!(absent, 1, "a damaged path is advertised");

    machine.push(&roots).await;
    let right = machine.larderd(&["verify"]).await;
    assert!(right.success, "{right:?}");
    machine.assert_reads_back(&roots).await;
    delete(&roots).await;
}

/// The commands stand in `docs/operations.md` just so, with other paths.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_by_the_book_is_restored_and_a_lost_database_rebuilt() {
    let mut machine = Machine::start().await;
    let roots = build_closure().await;
    machine.push(&roots).await;

    let backup = TempDir::new().unwrap();
    let (data, copy) = (machine.data(), backup.path().to_owned());
    let book = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let run_book = async |title: &str| {
        let chapter = book.split(&format!("<!-- {title} -->\n```console\n")).nth(1).expect(title);
        let chapter = chapter.split("```").next().unwrap();
        let mut commands = 0;
        for line in chapter.lines().filter_map(|line| line.strip_prefix("$ ")) {
            // Starting and stopping is the test's matter.
            if line.starts_with("systemctl") {
                continue;
            }
            let config = machine.dir.path().join("larder.toml");
            let line = line
                .split(" #")
                .next()
                .unwrap()
                .replace("/var/lib/larder", data.to_str().unwrap())
                .replace("/backup", copy.to_str().unwrap())
                .replace(
                    "larderd ",
                    &format!("{} --config {} ", program("larderd").display(), config.display()),
                );
            run(Command::new("sh").args(["-ec", &line])).await.expect_success();
            commands += 1;
        }
        assert!(commands > 2, "{chapter}");
    };
    run_book("backup").await;

    // The machine is lost, and what it had; another one starts from the backup.
    machine.larderd.kill().await;
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    let (secret, elsewhere) = (machine.dir.path().join("secret"), machine.dir.path().join("elsewhere"));
    fs::rename(&secret, &elsewhere).unwrap();
    run_book("restore").await;
    let refused = machine.larderd(&["check-config"]).await;
    assert!(refused.code == Some(78) && refused.stderr.contains("webhook rule 1, secrets"), "{refused:?}");
    fs::rename(&elsewhere, &secret).unwrap();
    machine.larderd.start_again().await;
    machine.assert_reads_back(&roots).await;

    // The database alone is lost.
    let refused = machine.larderd(&["rebuild"]).await;
    assert!(!refused.success && refused.stderr.contains("Stop it first"), "{refused:?}");
    machine.larderd.kill().await;
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(data.join(format!("larder.db{end}")));
    }
    let rebuilt = machine.larderd(&["rebuild"]).await.expect_success();
    assert!(rebuilt.contains("2 paths of 1 pushes came back"), "{rebuilt}");
    let refused = machine.larderd(&["rebuild"]).await;
    assert!(!refused.success && refused.stderr.contains("in use already"), "{refused:?}");
    let right = machine.larderd(&["verify"]).await;
    assert!(right.success, "{right:?}");
    machine.larderd.start_again().await;
    machine.assert_reads_back(&roots).await;
    delete(&roots).await;
}
