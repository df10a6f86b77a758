//! Paths that claim a content address.

use larder_protocol::{
    ContentAddress, StorePath,
    api::{ErrorAnswer, PathInfo},
    content_address::{ContentHash, Method, Misfit},
};
use sha2::{Digest as _, Sha256};

use crate::{
    nar::{TestNar, path},
    world::World,
};

/// The path that the address gives.
fn with_address(mut nar: TestNar, method: Method, hash: [u8; 32]) -> TestNar {
    let address = ContentAddress { method, hash: ContentHash::Sha256(hash) };
    if let Err(Misfit::Path(right)) = address.check_path(&nar.info.path, &nar.info.references) {
        nar.info.path = right;
    }
    nar.info.ca = Some(address.to_string());
    nar
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn file(contents: &[u8], references: &[&StorePath]) -> TestNar {
    TestNar::new(path(1, "x"), contents, references)
}

#[tokio::test]
async fn what_fits_is_taken() {
    let world = World::new().await;
    let flat = with_address(file(b"flat", &[]), Method::Flat, digest(b"flat"));
    let text = with_address(file(b"text", &[&flat.info.path]), Method::Text, digest(b"text"));
    let nar = file(b"nar", &[]);
    let hash = nar.info.nar_hash.0;
    let nar = with_address(nar, Method::Nar, hash);
    assert_eq!(world.push(&[&flat, &text, &nar]).await.published, 3);
    assert_eq!(world.narinfo(&flat).await.unwrap().ca, flat.info.ca);
    assert!(world.open(&[&flat, &text, &nar]).await.committed.is_some());
    world.end().await;
}

#[tokio::test]
async fn a_path_of_another_address_is_refused_and_named() {
    let world = World::new().await;
    let good = TestNar::new(path(7, "good"), b"good", &[]);
    let wrong =
        PathInfo { path: path(3, "x"), ..with_address(file(b"x", &[]), Method::Flat, digest(b"x")).info };
    let wrong = TestNar { info: wrong, ..file(b"x", &[]) };
    let opened = world.open(&[&good, &wrong]).await;
    assert_eq!(opened.refused.len(), 1);
    assert_eq!(opened.refused[0].path, wrong.info.path);
    assert!(opened.refused[0].reason.contains("content address"), "{}", opened.refused[0].reason);
    assert_eq!(opened.missing, [good.info.path.hash()], "the rest goes on");

    // What refers to it cannot be published.
    let user = TestNar::new(path(4, "user"), b"user", &[&wrong.info.path]);
    let opened = world.open(&[&user, &wrong]).await;
    world.upload(&opened, &user.chunks).await;
    world.send_recipes(&opened, &[&user]).await;
    let answer = world.commit(&opened).await;
    assert_eq!(answer.status(), 422);
    assert_eq!(answer.json::<ErrorAnswer>().await.unwrap().missing_references, [wrong.info.path]);
    world.end().await;
}

/// The path is that of the address; the contents are others.
#[tokio::test]
async fn contents_that_do_not_fit_are_refused() {
    let world = World::new().await;
    let nar = with_address(file(b"other", &[]), Method::Nar, [7; 32]);
    assert_eq!(world.open(&[&nar]).await.refused.len(), 1, "a NAR's hash needs no look at the NAR");
    for method in [Method::Flat, Method::Text] {
        let wrong = with_address(file(b"other", &[]), method, digest(b"right"));
        let opened = world.open(&[&wrong]).await;
        world.upload(&opened, &wrong.chunks).await;
        let rejected = world.send_recipes(&opened, &[&wrong]).await.rejected;
        assert!(rejected[0].reason.contains("content address"), "{}", rejected[0].reason);
        assert_eq!(world.commit(&opened).await.status(), 422);
        assert_eq!(world.narinfo(&wrong).await, None);
    }
    world.end().await;
}

/// A NAR that is stored already was never compared with the address that another path claims for it.
#[tokio::test]
async fn a_stored_nar_proves_no_address() {
    let world = World::new().await;
    let plain = file(b"other", &[]);
    let wrong = with_address(file(b"other", &[]), Method::Flat, digest(b"right"));
    let early = world.open(&[&wrong]).await;
    world.push(&[&plain]).await;
    assert_eq!(world.commit(&early).await.status(), 422);
    let late = world.open(&[&wrong]).await;
    assert_eq!((late.missing.len(), late.reused.len()), (1, 0));
    for push in [&early, &late] {
        assert_eq!(world.send_recipes(push, &[&wrong]).await.rejected.len(), 1);
        assert_eq!(world.commit(push).await.status(), 422);
    }
    assert_eq!(world.narinfo(&wrong).await, None);
    let right = with_address(file(b"other", &[]), Method::Flat, digest(b"other"));
    assert_eq!(world.push(&[&right]).await.published, 1);
    world.end().await;
}

#[tokio::test]
async fn hashes_of_git_are_refused() {
    let world = World::new().await;
    let wrong = with_address(file(b"x", &[]), Method::Git, digest(b"x"));
    let opened = world.open(&[&wrong]).await;
    assert!(opened.refused[0].reason.contains("git"), "{:?}", opened.refused);
    world.end().await;
}
