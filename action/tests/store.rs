//! Reading the Nix store, against databases that real Nix makes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use larder_action::store::{NixStore, StoreError};
use larder_protocol::{StorePath, api::PathInfo};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

/// A Nix of its own: its database is in a scratch directory, its paths are in /nix/store.
struct Nix {
    dir: TempDir,
}

impl Nix {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("nix")).unwrap();
        let nix = Self { dir };
        nix.command("nix-store").args(["--init"]).status().unwrap();
        nix
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn wal(&self) -> PathBuf {
        self.root().join("nix/var/nix/db/db.sqlite-wal")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let config =
            "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command";
        command
            .env("NIX_STATE_DIR", self.root().join("nix/var/nix"))
            .env("NIX_LOG_DIR", self.root().join("log"))
            .env("NIX_CONF_DIR", self.root())
            .env("NIX_CONFIG", config)
            .env("HOME", self.root())
            .env_remove("NIX_REMOTE")
            .current_dir(self.root());
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn build(&self, expression: &str) -> StorePath {
        let line = self.run("nix-build", &["--no-out-link", "-E", expression]);
        StorePath::from_absolute(line.lines().last().unwrap()).unwrap()
    }

    fn add(&self, name: &str, content: &str) -> StorePath {
        let file = self.root().join(name);
        // What no other test adds: there is one /nix/store.
        fs::write(&file, format!("{content} in {}", self.root().display())).unwrap();
        StorePath::from_absolute(&self.run("nix-store", &["--add", file.to_str().unwrap()])).unwrap()
    }

    async fn open(&self) -> NixStore {
        NixStore::open(self.root()).await.unwrap()
    }

    /// A process that keeps the database open, so that there is a `-wal` file.
    fn hold_open(&self) -> Holder {
        let mut child = self
            .command("nix-store")
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The greeting of Nix's protocol for `ssh://`; the answer comes when the store is open.
        let mut hello = 0x390c_9deb_u64.to_le_bytes().to_vec();
        hello.extend_from_slice(&0x206_u64.to_le_bytes());
        child.stdin.as_mut().unwrap().write_all(&hello).unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 16]).unwrap();
        assert!(self.wal().exists(), "Nix keeps a -wal file while it is open");
        Holder(child)
    }

    async fn sql(&self, statement: &'static str) {
        let file = self.root().join("nix/var/nix/db/db.sqlite");
        let mut connection = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}

/// Leaves nothing in /nix/store.
impl Drop for Nix {
    fn drop(&mut self) {
        let paths = self.run("nix", &["path-info", "--all"]);
        let mut delete = self.command("nix-store");
        delete.args(["--delete", "--ignore-liveness"]).args(paths.lines());
        assert!(delete.output().unwrap().status.success() || std::thread::panicking());
    }
}

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// A derivation of a shell script; `unique` makes it one that nobody has built.
fn derivation(unique: &Path, name: &str, more: &str, script: &str) -> String {
    format!(
        r#"derivation {{ name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh";
           unique = "{}"; args = [ "-c" "{script}" ]; {more} }}"#,
        unique.display()
    )
}

/// A program that needs a library, as Nix's language.
fn program(nix: &Nix) -> String {
    let library = derivation(nix.root(), "library", "", "echo $unique $out > $out");
    derivation(
        nix.root(),
        "program",
        &format!("library = {library};"),
        "/bin/mkdir $out; echo $library $out > $out/x",
    )
}

#[tokio::test]
async fn a_closure_is_what_nix_says_it_is() {
    let nix = Nix::new();
    let root = nix.build(&program(&nix));
    let closure = nix.open().await.closure(std::slice::from_ref(&root)).await.unwrap();
    assert_eq!(closure.roots, std::slice::from_ref(&root));

    let json = nix.run("nix", &["path-info", "--json", "--recursive", &root.absolute()]);
    let expected: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(expected.len(), 2);
    assert_eq!(closure.paths.len(), 2);
    for path in expected {
        let found = closure.paths.iter().find(|info| info.path.absolute() == path["path"]).unwrap();
        assert_eq!(found.nar_hash, path["narHash"].as_str().unwrap().parse().unwrap());
        assert_eq!(found.nar_size, path["narSize"].as_u64().unwrap());
        assert_eq!(found.deriver.as_ref().unwrap().absolute(), path["deriver"]);
        let mut references: Vec<String> = found.references.iter().map(StorePath::absolute).collect();
        let mut others: Vec<String> = path["references"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap().to_owned())
            .collect();
        references.sort();
        others.sort();
        assert_eq!(references, others);
    }
}

#[tokio::test]
async fn what_was_built_lies_above_the_mark_and_is_neither_added_nor_fixed_output() {
    let nix = Nix::new();
    nix.build(&derivation(nix.root(), "before", "", "echo > $out"));
    let store = nix.open().await;
    let mark = store.high_water_mark().await.unwrap();
    assert_eq!(store.built_since(mark).await.unwrap(), []);

    let source = nix.add("source", "added, not built");
    nix.build(&derivation(
        nix.root(),
        "fixed",
        r#"outputHashAlgo = "sha256"; outputHashMode = "flat";
           outputHash = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";"#,
        "echo > $out",
    ));
    let built = nix.build(&program(&nix));

    let outputs: Vec<PathInfo> = store.built_since(mark).await.unwrap();
    let names: Vec<&str> = outputs.iter().map(|info| info.path.name()).collect();
    assert_eq!(names, ["library", "program"]);
    assert_eq!(outputs[1].path, built);
    assert!(store.high_water_mark().await.unwrap() > mark);
    // What was added is in a closure all the same, with its content address.
    let added = store.closure(&[source]).await.unwrap();
    assert!(added.paths[0].ca.as_deref().unwrap().starts_with("fixed:r:sha256:"));
}

#[tokio::test]
async fn a_writer_that_is_active_is_seen() {
    let nix = Nix::new();
    let store = nix.open().await;
    assert!(!nix.wal().exists(), "nobody has the database open");
    let mark = store.high_water_mark().await.unwrap();

    let holder = nix.hold_open();
    let built = nix.build(&program(&nix));
    assert!(nix.wal().exists());
    assert!(store.built_since(mark).await.unwrap().iter().any(|info| info.path == built));
    drop(holder);

    let later = nix.build(&derivation(nix.root(), "later", "", "echo > $out"));
    assert!(store.built_since(mark).await.unwrap().iter().any(|info| info.path == later));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_while_nix_comes_and_goes_never_fails() {
    let nix = Nix::new();
    let first = nix.add("first", "first");
    let store = nix.open().await;
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for number in 0..25 {
                nix.add("file", &format!("{number}"));
            }
            done.store(true, Ordering::SeqCst);
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut mark = store.high_water_mark().await.unwrap();
                while !done.load(Ordering::SeqCst) {
                    let now = store.high_water_mark().await.unwrap();
                    assert!(now >= mark);
                    mark = now;
                    assert_eq!(store.closure(std::slice::from_ref(&first)).await.unwrap().paths.len(), 1);
                }
            });
        });
    });
}

#[tokio::test]
async fn a_row_without_hash_or_size_is_named() {
    let nix = Nix::new();
    let path = nix.add("broken", "broken");
    let store = nix.open().await;
    for (statement, what) in [
        ("UPDATE ValidPaths SET narSize = NULL", "no size"),
        ("UPDATE ValidPaths SET narSize = 0", "no size"),
        ("UPDATE ValidPaths SET narSize = 1, hash = ''", "no hash"),
        ("UPDATE ValidPaths SET hash = 'md5:d41d8cd98f00b204e9800998ecf8427e'", "a hash that is no SHA-256"),
    ] {
        nix.sql(statement).await;
        let error = store.closure(std::slice::from_ref(&path)).await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(&path.absolute()), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let nix = Nix::new();
    let path = nix.add("there", "there");
    let absent: StorePath = "00000000000000000000000000000000-absent".parse().unwrap();
    let error = nix.open().await.closure(&[path, absent]).await.unwrap_err();
    assert!(
        error.to_string().contains("00000000000000000000000000000000-absent is not a valid path"),
        "{error}"
    );

    let error = NixStore::open(Path::new("/var/empty/nowhere")).await.unwrap_err();
    assert!(matches!(error, StoreError::NoDatabase(_)));
    assert!(
        error.to_string().contains("/var/empty/nowhere/nix/var/nix/db/db.sqlite is not there"),
        "{error}"
    );
}

#[tokio::test]
async fn links_and_files_lead_to_their_store_path() {
    let nix = Nix::new();
    let path = nix.add("target", "target");
    let store = nix.open().await;
    let result = nix.root().join("result");
    symlink(path.absolute(), &result).unwrap();
    symlink("result", nix.root().join("other")).unwrap();
    fs::create_dir(nix.root().join("dir")).unwrap();
    for given in ["result", "other", "dir/../other", "./result/bin/x"] {
        assert_eq!(store.resolve(&nix.root().join(given)).unwrap(), path, "{given}");
    }
    assert_eq!(store.resolve(Path::new(&path.absolute())).unwrap(), path);
    assert_eq!(store.resolve(&store.real_path(&path)).unwrap(), path);
    for given in ["dir", "absent", "/nix/store", "/nix/store/..", "/etc/hostname"] {
        let error = store.resolve(&nix.root().join(given)).unwrap_err();
        assert!(matches!(error, StoreError::NotAStorePath { .. }), "{given}: {error}");
    }
}
