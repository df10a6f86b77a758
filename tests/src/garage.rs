//! Garage, the S3 server of those who host it themselves: <https://garagehq.deuxfleurs.fr>.
//!
//! `LARDER_TEST_GARAGE` names its program, where tests' buckets are to be on it. `scripts/test --s3` installs it.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Its program, if tests' buckets are to be on it.
pub fn program() -> Option<PathBuf> {
    env::var_os("LARDER_TEST_GARAGE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where one may listen, and on the next port, too: no two processes have the same address. It cannot say which port it was
/// given, and all of 127.0.0.0/8 is this machine's.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(3900);
    // A process's number has 22 bits.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | high, middle, low], NEXT.fetch_add(2, Ordering::Relaxed)))
}

/// Starts it alone on what lies in this folder, with a bucket and its key, and waits until it listens.
pub async fn start(
    garage: &Path,
    dir: &Path,
    address: SocketAddr,
    bucket: &str,
    (key, secret): (&str, &str),
) -> Child {
    let rpc = SocketAddr::new(address.ip(), address.port() + 1);
    let configuration = format!(
        "metadata_dir = \"{dir}/meta\"\ndata_dir = \"{dir}/data\"\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
         compression_level = \"none\"\nrpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\nrpc_secret = \"{secret}\"\n\
         [s3_api]\napi_bind_addr = \"{address}\"\ns3_region = \"us-east-1\"\nroot_domain = \".s3.example.org\"\n",
        dir = dir.display()
    );
    fs::write(dir.join("garage.toml"), configuration).unwrap();
    let mut child = Command::new(garage)
        .arg("-c")
        .arg(dir.join("garage.toml"))
        .args(["server", "--single-node", "--default-bucket"])
        .env("GARAGE_DEFAULT_BUCKET", bucket)
        .env("GARAGE_DEFAULT_ACCESS_KEY", key)
        .env("GARAGE_DEFAULT_SECRET_KEY", secret)
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut log, mut said) = (BufReader::new(child.stderr.take().unwrap()).lines(), String::new());
    while !said.contains("S3 API server listening") {
        let line = log.next_line().await.unwrap().unwrap_or_else(|| panic!("Garage does not start: {said}"));
        said = format!("{said}{line}\n");
    }
    // It goes on writing there.
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    child
}
