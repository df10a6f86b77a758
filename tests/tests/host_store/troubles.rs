//! A daemon that is in trouble, and a store that is.

use std::{fs, path::Path};

use larder_tests::{package::text, world::World};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use crate::host::{Host, conclude, left, protected, push, roots, tree};

async fn try_again(world: &World) {
    world.advance(3600);
    world.service().queue.wake();
    world.service().queue.idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_tried_again_when_no_daemon_answers() {
    let mut host = Host::new();
    let world = host.world("").await;
    let (leaf, top) = tree();
    push(&world, &protected(7), &[&leaf, &top]).await;
    conclude(&world, &protected(7), "success").await;
    assert_eq!(left(&world).await.len(), 1);
    host.start(&world.reader().await.public_keys).await;
    try_again(&world).await;
    assert_eq!(left(&world).await, [""; 0]);
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path));
}

/// What a daemon does when it was greeted.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Nothing more.
    HangsUp,
    /// It says why it cannot do what it is asked.
    Says(&'static str),
}

/// Answers one client as a daemon of Nix 2.8 would (`libstore/daemon.cc`).
async fn answer(mut stream: UnixStream, trouble: Trouble) -> std::io::Result<()> {
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(stream.read_u64_le().await?, 0x6e69_7863);
    stream.write_all(&numbers(&[0x6478_696f, 0x122])).await?;
    stream.read_exact(&mut [0; 24]).await?;
    let mut greeting = Vec::new();
    text(&mut greeting, b"2.8.0");
    greeting.extend(numbers(&[0x616c_7473]));
    stream.write_all(&greeting).await?;
    stream.read_u64_le().await?;
    let Trouble::Says(why) = trouble else { return Ok(()) };
    let mut error = numbers(&[0x6378_7470]);
    text(&mut error, b"Error");
    error.extend(numbers(&[0]));
    text(&mut error, b"Error");
    text(&mut error, why.as_bytes());
    error.extend(numbers(&[0, 0]));
    stream.write_all(&error).await?;
    // Until the client has gone.
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

fn daemon_in_trouble(socket: &Path, trouble: Trouble) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, trouble));
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_with_the_daemon_is_tried_again() {
    let mut host = Host::new();
    let world = host.world("").await;
    let (leaf, top) = tree();
    push(&world, &protected(7), &[&leaf, &top]).await;
    let mut first = true;
    for trouble in [
        Trouble::HangsUp,
        Trouble::Says("SQLite database '/nix/var/nix/db/db.sqlite' is busy"),
        Trouble::Says("writing to file: No space left on device"),
    ] {
        let daemon = daemon_in_trouble(&host.socket(), trouble);
        match std::mem::take(&mut first) {
            true => conclude(&world, &protected(7), "success").await,
            false => try_again(&world).await,
        }
        let left = left(&world).await;
        assert!(left.len() == 1 && left[0].contains("daemon"), "{trouble:?}: {left:?}");
        if let Trouble::Says(why) = trouble {
            assert!(left[0].contains(why), "{left:?}");
        }
        daemon.abort();
        fs::remove_file(host.socket()).unwrap();
    }
    host.start(&world.reader().await.public_keys).await;
    try_again(&world).await;
    assert_eq!(left(&world).await, [""; 0]);
    assert!(host.has(&top.info.path) && host.has(&leaf.info.path));
}

/// The daemon compares the NAR's hash, whoever signed it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_here_does_not_get_into_the_hosts_store() {
    let mut host = Host::new();
    let world = host.world("").await;
    host.start(&world.reader().await.public_keys).await;
    let (leaf, top) = tree();
    push(&world, &protected(7), &[&leaf, &top]).await;
    // What no compression shortens stands there as it is.
    let needle = &leaf.nar[300_000..300_032];
    let mut flipped = 0;
    for object in world.objects().by_age("frames").await {
        let at = |bytes: &[u8]| bytes.windows(needle.len()).position(|window| window == needle);
        if let Some(at) = at(&world.objects().read(&object).await) {
            world.objects().change(&object, |bytes| bytes[at] ^= 1).await;
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    conclude(&world, &protected(7), "success").await;
    // Whether the service or the daemon saw it first: it may be mended, so it is tried again, and fails as long as it is not.
    for _ in 0..2 {
        assert!(!host.is_valid(&leaf.info.path).await && !host.is_valid(&top.info.path).await);
        assert!(roots(&world).is_empty());
        let why = left(&world).await;
        assert_eq!(why.len(), 1, "{why:?}");
        try_again(&world).await;
    }
}
