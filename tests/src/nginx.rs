//! Real nginx in front of the service, configured by the files in `deploy/nginx`.

use std::{fs, io::Write as _, net::SocketAddr, process::Stdio};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    larderd::free_address,
    nix::{Output, run},
    programs::repository,
};

/// nginx, until it is dropped.
pub struct Nginx {
    dir: TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Nginx {
    /// nginx as `deploy/nginx/site.conf` says, in front of these services, with a certificate that it made itself; and
    /// the same pages without TLS.
    pub async fn start(services: &[SocketAddr]) -> Self {
        // Somebody else may take the ports between our looking and its listening.
        for _ in 0..5 {
            let nginx = Self { dir: TempDir::new().unwrap(), plain: free_address(), tls: free_address() };
            nginx.configure(services);
            // It goes into the background once it listens.
            let output = nginx.command(&[]).await;
            if output.success {
                return nginx;
            }
            assert!(output.stderr.contains("Address already in use"), "{}", output.stderr);
        }
        panic!("nginx finds no free port");
    }

    fn configure(&self, services: &[SocketAddr]) {
        let dir = self.dir.path();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["cache.example.org".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(dir.join("fullchain.pem"), certificate.pem()).unwrap();
        fs::write(dir.join("privkey.pem"), key.serialize_pem()).unwrap();

        let folder = repository().join("deploy/nginx").canonicalize().unwrap();
        // As replicas.conf has them.
        let servers = services.iter().map(|address| match services.len() {
            1 => format!("server {address};"),
            _ => {
                format!("server {address} max_fails=2 fail_timeout=5s; server {address} max_fails=0 backup;")
            }
        });
        let servers = servers.collect();
        let mut site = fs::read_to_string(folder.join("site.conf")).unwrap();
        for (there, here) in [
            ("server 127.0.0.1:8080;", servers),
            ("/etc/letsencrypt/live/cache.example.org", dir.display().to_string()),
            ("/etc/nginx/larder.conf", format!("{}/larder.conf", folder.display())),
            ("listen 443 ssl http2;", format!("listen {} ssl http2;", self.tls)),
            ("listen [::]:443 ssl http2;", String::new()),
            ("listen 80;", format!("listen unix:{}/http;", dir.display())),
            ("listen [::]:80;", String::new()),
        ] {
            assert!(site.contains(there), "site.conf says nothing of {there}");
            site = site.replace(there, &here);
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
            .concat();
        let whole = format!(
            "user root;\npid {0}/pid;\nerror_log {0}/error.log;\nevents {{}}\nhttp {{\n{temporary}\naccess_log off;\n\
             gzip on;\ngzip_types *;\n{site}\nserver {{\nlisten {1};\ninclude {2}/larder.conf;\n}}\n}}\n",
            dir.display(),
            self.plain,
            folder.display()
        );
        fs::write(dir.join("nginx.conf"), whole).unwrap();
    }

    async fn command(&self, more: &[&str]) -> Output {
        let dir = self.dir.path();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("error.log"));
        run(command.args(more)).await
    }

    /// Its URL, without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.plain)
    }

    /// Asks for a page as curl does by https, and gives its status and HTTP's version.
    pub async fn over_tls(&self, page: &str) -> String {
        let host = format!("cache.example.org:{}", self.tls.port());
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--http2",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{http_version}",
        ])
        .arg("--cacert")
        .arg(self.dir.path().join("fullchain.pem"))
        .args(["--resolve", &format!("{host}:127.0.0.1"), &format!("https://{host}{page}")]);
        run(&mut curl).await.expect_success()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let dir = self.dir.path();
        if std::thread::panicking() {
            let log = fs::read_to_string(dir.join("error.log")).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "{log}");
        }
        let mut stop = std::process::Command::new("/usr/sbin/nginx");
        stop.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).args(["-s", "stop"]);
        let _ = stop.stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}
