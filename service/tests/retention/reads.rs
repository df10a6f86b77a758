//! What a crash loses of when paths were last read: what was read since it was last written, a minute at most.

use std::{net::SocketAddr, path::Path, process::Stdio};

use larder_service::clock::Clock;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    nar::TestNar,
    roots::nar,
    world::{DAY, HOUR, World},
};

/// Two sweeps, between which the grace of what nothing keeps is over.
async fn sweep_twice(world: &World) {
    world.sweep().await;
    world.pass(DAY + 1);
    world.sweep().await;
}

#[tokio::test]
async fn a_crash_loses_the_reads_since_they_were_last_written_and_no_others() {
    let mut world = World::new().await;
    let (written, lost) = (nar(1, &[]), nar(2, &[]));
    let anna = world.person().await;
    world.push(&anna, &[&written]).await;
    world.push(&anna, &[&lost]).await;
    world.pass(6 * DAY);
    assert!(world.has(&written).await);
    world.service.retention.reads.flush(&world.service).await.unwrap();
    assert!(world.has(&lost).await);
    world.restart().await;
    world.pass(DAY + HOUR);
    sweep_twice(&world).await;
    assert_eq!(world.visible(&[&written, &lost]).await, [true, false]);
    // It went as a whole, and the next push brings it again.
    assert!(!world.has(&lost).await);
    world.push(&world.person().await, &[&lost]).await;
    assert!(world.has(&lost).await && world.has(&written).await);
    world.assert_storage_fits().await;
}

/// The program, with nothing of the environment.
fn larderd(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
    command.env_clear().env("LARDER_DATA_DIR", data).env("LARDER_LISTEN", "127.0.0.1:0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts the service.
async fn serve(data: &Path) -> (Child, SocketAddr) {
    let mut larderd = larderd(data).spawn().unwrap();
    let mut said = BufReader::new(larderd.stdout.take().unwrap()).lines();
    let listens = said.next_line().await.unwrap().unwrap();
    let address = listens.strip_prefix("larderd listens on http://").unwrap().parse().unwrap();
    // Else it would have nobody to print to.
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    (larderd, address)
}

async fn read(address: SocketAddr, nar: &TestNar) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let path = format!("/main/{}.narinfo", nar.info.path.hash());
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// A sweep, too, writes what was read: when it is over, that is on disk.
#[tokio::test]
async fn kill_9_loses_no_read_that_was_written() {
    let world = World::over(tempfile::tempdir().unwrap(), |_| {}, Clock::System.now() - 10 * DAY).await;
    let (written, forgotten) = (nar(1, &[]), nar(2, &[]));
    let anna = world.person().await;
    world.push(&anna, &[&written]).await;
    world.push(&anna, &[&forgotten]).await;
    let data = world.end().await;

    let (mut service, address) = serve(data.path()).await;
    read(address, &written).await;
    assert!(larderd(data.path()).arg("sweep").status().await.unwrap().success());
    service.kill().await.unwrap();

    let world = World::over(data, |_| {}, Clock::System.now()).await;
    sweep_twice(&world).await;
    assert_eq!(world.visible(&[&written, &forgotten]).await, [true, false]);
    assert!(world.has(&written).await);
}
