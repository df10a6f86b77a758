//! Real Nix: the machine's own, and another version in an image.
//!
//! What is built is built in the machine's `/nix/store`, as a workflow's job does, so tests run as root.
//! What is read is read into scratch stores, under `STORE/nix/store`, where nothing is trusted but what
//! the test says.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use data_encoding::HEXLOWER;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// The image with Debian 13's Nix; `scripts/local-images` makes it.
pub const NIX_2_26: &str = "larder-test/nix-2.26";

/// No command of a test takes longer.
const LIMIT: Duration = Duration::from_secs(240);

/// Which Nix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nix {
    /// The machine's (2.8 on Debian 12).
    Installed,
    /// Debian 13's, in a container on the machine's network.
    V2_26,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Whether it ended with 0.
    pub success: bool,
    /// What it ended with; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a command that must have ended well.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.success, "the command failed\n--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command with nothing on its standard input, within the limit.
pub async fn run(command: &mut Command) -> Output {
    run_with_input(command, b"").await
}

/// Runs a command with this on its standard input, within the limit.
pub async fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let name = format!("{:?}", command.as_std());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    // A command that ends without reading all of it is no failure of its own.
    let feed = async move {
        let _ = stdin.write_all(input).await;
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1.unwrap() };
    let output = timeout(LIMIT, both).await.unwrap_or_else(|_| panic!("{name} took longer than {LIMIT:?}"));
    Output {
        success: output.status.success(),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A name that no other test, and no earlier run, has used.
pub fn unique(name: &str) -> String {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).unwrap();
    format!("{name}-{}", HEXLOWER.encode(&bytes))
}

/// A command of the installed Nix that reads no configuration but what it is given. `home` is where it keeps
/// what it remembers of caches.
pub fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("NIX_CONF_DIR", "/var/empty")
        .env("NIX_CONFIG", CONFIG);
    command
}

/// As root, alone, builders with the machine's tools.
const CONFIG: &str = "build-users-group =\nsandbox = false\nsubstitute = false\nsubstituters =\n\
    experimental-features = nix-command flakes\n";

/// Builds an expression in the machine's store and gives the outputs of what it evaluates to, in order.
pub async fn build(expression: &str) -> Vec<PathBuf> {
    let home = TempDir::new().unwrap();
    let mut command = command("nix-build", home.path());
    command.args(["--no-out-link", "-E", expression]);
    let paths: Vec<PathBuf> = run(&mut command).await.expect_success().lines().map(PathBuf::from).collect();
    assert!(!paths.is_empty(), "nothing was built by {expression}");
    paths
}

/// A derivation as a Nix expression: a shell script that makes `$out`, with store paths of its own
/// whenever it is made. `inputs` are expressions; the script finds them as `$in0`, `$in1`, ….
pub fn derivation(name: &str, inputs: &[&str], script: &str) -> String {
    let inputs: String =
        inputs.iter().enumerate().map(|(position, input)| format!("in{position} = {input}; ")).collect();
    format!(
        "(derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-euc\" ''{script}'' ]; PATH = \"/usr/bin:/bin\"; salt = \"{}\"; {inputs}}})",
        unique("salt")
    )
}

/// The closure of paths in the machine's store, sorted.
pub async fn closure(paths: &[PathBuf]) -> Vec<PathBuf> {
    let home = TempDir::new().unwrap();
    let mut command = command("nix-store", home.path());
    command.args(["--query", "--requisites"]).args(paths);
    let mut closure: Vec<PathBuf> =
        run(&mut command).await.expect_success().lines().map(PathBuf::from).collect();
    closure.sort();
    closure
}

/// Deletes paths from the machine's store, with what refers to them.
pub async fn delete(paths: &[PathBuf]) {
    let home = TempDir::new().unwrap();
    let mut command = command("nix-store", home.path());
    run(command.args(["--delete", "--ignore-liveness"]).args(paths)).await;
}

/// Where a reader reads.
#[derive(Debug, Clone)]
pub struct Reader {
    /// `substituters`.
    pub substituters: Vec<String>,
    /// `trusted-public-keys`.
    pub public_keys: Vec<String>,
    /// More lines for `nix.conf`.
    pub more: String,
}

impl Reader {
    fn config(&self) -> String {
        format!(
            "build-users-group =\nsandbox = false\nsubstitute = true\nsubstituters = {}\n\
             trusted-public-keys = {}\nrequire-sigs = true\nconnect-timeout = 10\n\
             narinfo-cache-negative-ttl = 0\nexperimental-features = nix-command flakes\n{}\n",
            self.substituters.join(" "),
            self.public_keys.join(" "),
            self.more,
        )
    }
}

/// An empty store to read into. Gone when dropped.
pub struct ScratchStore {
    dir: TempDir,
    nix: Nix,
}

impl ScratchStore {
    /// An empty store, of this Nix.
    pub fn new(nix: Nix) -> Self {
        Self { dir: TempDir::new().unwrap(), nix }
    }

    /// Where a store path lies in this store.
    pub fn real_path(&self, path: &Path) -> PathBuf {
        self.dir.path().join(path.strip_prefix("/").unwrap())
    }

    /// Whether anything lies there.
    pub fn has(&self, path: &Path) -> bool {
        self.real_path(path).symlink_metadata().is_ok()
    }

    /// A command of this store's Nix, configured so.
    pub fn command(&self, program: &str, config: &str) -> Command {
        let dir = self.dir.path();
        let home = dir.join("home");
        match self.nix {
            Nix::Installed => {
                let mut command = command(program, &home);
                command.env("NIX_CONFIG", config).env("NIX_REMOTE", dir);
                command
            }
            Nix::V2_26 => {
                let mut command = Command::new("docker");
                command
                    .args(["run", "--rm", "--network", "host", "--volume"])
                    .arg(format!("{0}:{0}", dir.display()))
                    .arg(format!("--env=HOME={}", home.display()))
                    .arg(format!("--env=NIX_CONFIG={config}"))
                    .arg(format!("--env=NIX_REMOTE={}", dir.display()))
                    .args([NIX_2_26, program]);
                command
            }
        }
    }

    /// Asks Nix for paths that must come from the reader's substituters: none has a derivation here.
    pub async fn realise(&self, reader: &Reader, paths: &[PathBuf]) -> Output {
        run(self.command("nix-store", &reader.config()).arg("--realise").args(paths)).await
    }

    /// `nix copy --from`: reads from one cache alone.
    pub async fn copy_from(&self, reader: &Reader, paths: &[PathBuf]) -> Output {
        let from = reader.substituters.first().expect("a reader without substituter");
        run(self.command("nix", &reader.config()).args(["copy", "--from", from]).args(paths)).await
    }

    /// Has Nix compare every path here with its hash, and every closure with itself.
    pub async fn verify(&self) {
        let config = "build-users-group =\n";
        let verified = run(self.command("nix-store", config).args(["--verify", "--check-contents"])).await;
        let stderr = verified.stderr.clone();
        verified.expect_success();
        assert!(!stderr.contains("error"), "{stderr}");
    }

    /// What Nix knows of a path here: its signatures among it.
    pub async fn path_info(&self, path: &Path) -> serde_json::Value {
        let config = "experimental-features = nix-command\n";
        let output = run(self.command("nix", config).args(["path-info", "--json"]).arg(path)).await;
        let json: serde_json::Value = serde_json::from_str(&output.expect_success()).unwrap();
        // 2.8 answers with a list, 2.26 with an object by path.
        match json {
            serde_json::Value::Array(infos) => infos.into_iter().next().unwrap(),
            serde_json::Value::Object(infos) => infos.into_iter().next().unwrap().1,
            other => panic!("{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache made by Nix itself: what is tested is that the helpers tell good from bad.
    async fn signed_cache(dir: &Path, paths: &[PathBuf]) -> Reader {
        let key = dir.join("key");
        let mut generate = command("nix-store", dir);
        generate.args(["--generate-binary-cache-key", "test-1"]).arg(&key).arg(dir.join("key.pub"));
        run(&mut generate).await.expect_success();
        let cache = format!("file://{}/cache?compression=none&secret-key={}", dir.display(), key.display());
        let mut copy = command("nix", dir);
        run(copy.args(["copy", "--to", &cache]).args(paths)).await.expect_success();
        Reader {
            substituters: vec![format!("file://{}/cache", dir.display())],
            public_keys: vec![std::fs::read_to_string(dir.join("key.pub")).unwrap()],
            more: String::new(),
        }
    }

    #[tokio::test]
    async fn a_closure_is_built_and_read_back_with_signatures() {
        let dir = TempDir::new().unwrap();
        let leaf = derivation("leaf", &[], "echo leaf > $out");
        let top = derivation("top", &[&leaf], "mkdir $out; ln -s $in0 $out/leaf");
        let built = build(&top).await;
        let closure = closure(&built).await;
        assert_eq!(closure.len(), 2);
        let reader = signed_cache(dir.path(), &built).await;

        let store = ScratchStore::new(Nix::Installed);
        store.realise(&reader, &built).await.expect_success();
        assert!(closure.iter().all(|path| store.has(path)));
        store.verify().await;
        assert!(store.path_info(&built[0]).await["signatures"][0].as_str().unwrap().starts_with("test-1:"));

        let untrusting = ScratchStore::new(Nix::Installed);
        let stranger = Reader { public_keys: Vec::new(), ..reader };
        assert!(!untrusting.realise(&stranger, &built).await.success);
        assert!(!untrusting.copy_from(&stranger, &built).await.success);
        assert!(!untrusting.has(&built[0]));
        delete(&closure).await;
    }

    #[tokio::test]
    async fn the_other_nix_is_another_and_runs() {
        let store = ScratchStore::new(Nix::V2_26);
        let version = run(store.command("nix", "").arg("--version")).await.expect_success();
        assert!(version.contains("2.26"), "{version}");
    }
}
