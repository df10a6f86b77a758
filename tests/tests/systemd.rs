//! `deploy/systemd`, by systemd itself.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{fs, path::Path};

use larder_tests::{
    client::Client,
    nix::{Output, run, unique},
    package::Package,
    programs::{program, repository},
    world::secret_file,
};
use tempfile::TempDir;
use tokio::process::Command;

/// What `scripts/local-images` makes.
const IMAGE: &str = "larder-test/debian";

#[tokio::test]
async fn the_units_are_right_and_leave_little_open() {
    let dir = TempDir::new().unwrap();
    for (name, judged) in
        [("larderd.service", true), ("larder-mirror.service", true), ("larder-mirror.timer", false)]
    {
        let unit = dir.path().join(name);
        let text = fs::read_to_string(repository().join("deploy/systemd").join(name)).unwrap();
        // It is not installed here.
        let text = text.replace("/usr/local/bin/larderd", program("larderd").to_str().unwrap());
        fs::write(&unit, text).unwrap();
        let mut verify = Command::new("systemd-analyze");
        let verified = run(verify.args(["verify", "--man=no"]).arg(&unit)).await;
        assert_eq!((verified.code, verified.stderr.as_str()), (Some(0), ""), "{name}");
        if judged {
            // In tenths, of 100: it fails if more is exposed.
            let mut judge = Command::new("systemd-analyze");
            judge.args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&unit);
            run(&mut judge).await.expect_success();
        }
    }
}

/// A machine that systemd has started, with larderd installed as the unit says.
struct Machine(String);

impl Machine {
    async fn start(dir: &Path, config: &str) -> Self {
        let dir = dir.canonicalize().unwrap();
        fs::create_dir(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/larder.toml"), config).unwrap();
        secret_file(&dir.join("etc/webhook"), "a secret of sixteen bytes or more");
        // Not every kernel has user namespaces. All else must be as the unit says.
        let drop_in = "[Service]\nPrivateUsers=no\nLoadCredential=webhook:/etc/larder/webhook\n";
        fs::create_dir(dir.join("drop-in")).unwrap();
        fs::write(dir.join("drop-in/here.conf"), drop_in).unwrap();
        let units = repository().join("deploy/systemd").canonicalize().unwrap();
        let larderd = program("larderd").canonicalize().unwrap();
        let machine = Self(unique("larder-systemd"));
        let mut start = Command::new("docker");
        start.args(["run", "--detach", "--rm", "--name", &machine.0, "--publish", "127.0.0.1::8080"]);
        // What systemd needs of Docker, and systemd's own way to hand out secrets.
        start.args([
            "--cap-add=SYS_ADMIN",
            "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined",
        ]);
        start.args(["--cgroupns=host", "--tmpfs=/run", "--tmpfs=/tmp", "--env=container=docker"]);
        start.arg("--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw");
        for (here, there) in [
            (larderd.as_path(), "/usr/local/bin/larderd:ro"),
            (&units, "/root/deploy/systemd:ro"),
            (&units.join("larderd.service"), "/etc/systemd/system/larderd.service:ro"),
            (&dir.join("drop-in"), "/etc/systemd/system/larderd.service.d:ro"),
            (&dir.join("etc"), "/etc/larder"),
        ] {
            start.arg(format!("--volume={}:{there}", here.display()));
        }
        // (The folder is there for those who start larderd without systemd.)
        start.args([IMAGE, "sh", "-ec", "rmdir /var/lib/larder; mount --make-rshared /; exec /sbin/init"]);
        run(&mut start).await.expect_success();
        machine
    }

    async fn run(&self, words: &[&str]) -> Output {
        run(Command::new("docker").args(["exec", &self.0]).args(words)).await
    }

    async fn says(&self, words: &[&str]) -> String {
        self.run(words).await.expect_success().trim().to_owned()
    }

    /// One property of the unit.
    async fn shows(&self, property: &str) -> String {
        self.says(&["systemctl", "show", "--value", "--property", property, "larderd"]).await
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rm", "--force", "--volumes", &self.0]).output();
    }
}

const CONFIG: &str = r#"
listen = "0.0.0.0:8080"

[[cache]]
name = "main"
upstream = []

[[webhook]]
repositories = ["acme/flake"]
secrets = [{ file = "/run/credentials/larderd.service/webhook" }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn larderd_takes_a_push_with_no_more_than_the_unit_leaves_it() {
    let dir = TempDir::new().unwrap();
    let machine = Machine::start(dir.path(), CONFIG).await;
    // systemd's own bus is there a moment after its first process; until then it says "offline".
    let up = "until systemctl is-system-running --wait >/dev/null; do sleep 0.1; done";
    machine.says(&["timeout", "60", "sh", "-c", up]).await;
    machine.says(&["systemctl", "start", "larderd"]).await;
    let ready = ["curl", "-sS", "--retry", "60", "--retry-connrefused", "http://127.0.0.1:8080/readyz"];
    assert_eq!(machine.says(&ready).await, "ready");

    let token = machine.says(&["larderd", "token", "create", "anna"]).await;
    let port = run(Command::new("docker").args(["port", &machine.0, "8080"])).await.expect_success();
    let client = Client::with_token(&format!("http://{}", port.trim()), "main", &token);
    client.push(&[&Package::noise("package", 500_000)]).await.unwrap();

    let process = machine.shows("MainPID").await;
    let status = machine.says(&["cat", &format!("/proc/{process}/status")]).await;
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let mounts = machine.says(&["cat", &format!("/proc/{process}/mountinfo")]).await;
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().starts_with("ro,"), "{root}");
    assert_eq!(machine.says(&["stat", "-c", "%a", "/var/lib/private/larder"]).await, "700");

    // A mirror beside it, as the book says, which whoever serves it can read.
    let book = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let commands = book.split("<!-- mirror -->\n```console\n").nth(1).unwrap().split("```").next().unwrap();
    let commands = commands.replace("$ ", "");
    machine.says(&["sh", "-ec", &format!("cd /root; {commands}")]).await;
    assert_eq!(machine.says(&["systemctl", "is-active", "larder-mirror.timer"]).await, "active");
    machine.says(&["systemctl", "start", "larder-mirror.service"]).await;
    let read = "runuser -u nobody -- sh -ec 'cat /srv/mirror/*.narinfo /srv/mirror/nar/*' | wc -c";
    assert!(machine.says(&["sh", "-ec", read]).await.parse::<u64>().unwrap() > 500_000);

    machine.says(&["systemctl", "stop", "larderd"]).await;
    assert_eq!(machine.shows("Result").await, "success");
    // With it the webhook's secret is gone, which nothing needs that is done now.
    machine.says(&["sh", "-ec", "rm /var/lib/larder/larder.db*"]).await;
    let book = book.split("$ larderd rebuild\n").nth(1).unwrap().split("```").next().unwrap();
    let commands = format!("larderd rebuild\n{}", book.replace("$ ", ""));
    machine.says(&["sh", "-ec", &commands]).await;
    assert_eq!(machine.says(&ready).await, "ready");
    // The user may have another number by now, and another mirror's files are not its own.
    machine.says(&["chown", "-R", "daemon", "/srv/mirror"]).await;
    machine.says(&["rm", "/srv/mirror/nix-cache-info"]).await;
    machine.says(&["systemctl", "start", "larder-mirror.service"]).await;
    machine.says(&["test", "-e", "/srv/mirror/nix-cache-info"]).await;
    machine.says(&["systemctl", "stop", "larderd"]).await;
    // A wrong configuration is no reason to try again.
    fs::write(dir.path().join("etc/larder.toml"), "listen = 1").unwrap();
    let failed = machine.run(&["systemctl", "start", "--wait", "larderd"]).await;
    assert!(!failed.success, "{failed:?}");
    assert_eq!(machine.shows("ExecMainStatus").await, "78");
    assert_eq!(
        (machine.shows("NRestarts").await, machine.shows("ActiveState").await),
        ("0".into(), "failed".into())
    );
}
