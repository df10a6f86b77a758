//! What a push may not do.

use larder_protocol::{
    api::{CommittedPush, ErrorAnswer, RecipesAnswer},
    recipe::{self},
};
use larder_service::trust::people;

use crate::{
    nar::{TestNar, contents, path},
    world::{World, upload_body},
};

#[tokio::test]
async fn a_missing_reference_is_named() {
    let world = World::new().await;
    let (a, b) = (path(5, "absent-a"), path(6, "absent-b"));
    let nar = TestNar::new(path(1, "x"), b"x", &[&a, &b]);
    let opened = world.open(&[&nar]).await;
    world.upload(&opened, &nar.chunks).await;
    world.send_recipes(&opened, &[&nar]).await;
    let answer = world.commit(&opened).await;
    assert_eq!(answer.status(), 422);
    let error: ErrorAnswer = answer.json().await.unwrap();
    assert_eq!(error.missing_references, [a, b]);
    assert_eq!(world.narinfo(&nar).await, None);
    world.end().await;
}

#[tokio::test]
async fn the_first_to_bring_a_path_keeps_it() {
    let world = World::new().await;
    let first = TestNar::new(path(1, "x"), b"first", &[]);
    let second = TestNar::new(path(1, "x"), b"second", &[]);
    let other = TestNar::new(path(2, "y"), b"other", &[]);
    // Both are opened before either is committed.
    let (one, two) = (world.open(&[&first]).await, world.open(&[&second, &other]).await);
    world.upload(&one, &first.chunks).await;
    world.send_recipes(&one, &[&first]).await;
    world.upload(&two, &[&second.chunks[..], &other.chunks[..]].concat()).await;
    assert!(world.send_recipes(&two, &[&second, &other]).await.rejected.is_empty());
    world.commit(&one).await;
    let two: CommittedPush = world.commit(&two).await.json().await.unwrap();
    assert_eq!(two.published, 1);
    assert_eq!(two.divergences.len(), 1);
    assert_eq!(two.divergences[0].kept, first.info.nar_hash);
    assert_eq!(world.narinfo(&first).await.unwrap().nar_hash, first.info.nar_hash);
    assert!(world.narinfo(&other).await.is_some());

    let late = world.open(&[&second]).await.committed.unwrap();
    assert_eq!(late.divergences[0].pushed, second.info.nar_hash);
    world.end().await;
}

#[tokio::test]
async fn what_does_not_hold_is_refused() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), &contents(4, 300_000, &[]), &[]);
    let opened = world.open(&[&nar]).await;
    let frames = format!("/{}/frames", opened.push);

    let mut body = upload_body(&nar.chunks);
    *body.last_mut().unwrap() ^= 1;
    assert_eq!(world.post(&frames, body).await.status(), 422);
    let body = upload_body(&nar.chunks);
    assert_eq!(world.post(&frames, body[..body.len() - 1].to_vec()).await.status(), 400);
    assert_eq!(world.post(&frames, [body, vec![0]].concat()).await.status(), 400);

    world.upload(&opened, &nar.chunks).await;
    let mut swapped = nar.recipe();
    swapped.chunks.reverse();
    let recipes = format!("/{}/recipes", opened.push);
    let answer: RecipesAnswer = world.post(&recipes, recipe::encode(&[swapped])).await.json().await.unwrap();
    assert_eq!(answer.rejected.len(), 1);
    let mut grown = nar.recipe();
    grown.nar_size += 1;
    let answer: RecipesAnswer = world.post(&recipes, recipe::encode(&[grown])).await.json().await.unwrap();
    assert!(answer.rejected[0].reason.contains("size"));
    assert_eq!(world.commit(&opened).await.status(), 422);
    world.end().await;
}

#[tokio::test]
async fn a_push_belongs_to_who_opened_it() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let opened = world.open(&[&nar]).await;
    let main = "main".parse().unwrap();
    let other = people::create_token(
        &world.service.metadata,
        &world.service.clock,
        people::NewToken::pushing("other", &main, 60),
    )
    .await
    .unwrap();
    let url = format!("{}/api/v1/caches/main/pushes/{}/commit", world.url, opened.push);
    let answer = world.client.post(&url).bearer_auth(other.expose()).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(world.client.post(&url).send().await.unwrap().status(), 401);
    world.end().await;
}

/// A NAR that is here already must not be published with a size that is not its own: no reader could take it.
#[tokio::test]
async fn a_stored_nar_is_not_published_with_another_size() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let mut liar = TestNar::new(path(2, "y"), b"x", &[]);
    liar.info.nar_size += 8;
    // Before the NAR is here, and after.
    let early = world.open(&[&liar]).await;
    world.push(&[&nar]).await;
    assert_eq!(world.commit(&early).await.status(), 422);
    let late = world.open(&[&liar]).await;
    assert_eq!((late.missing.len(), late.reused.len()), (1, 0));
    for push in [&early, &late] {
        assert_eq!(world.send_recipes(push, &[&liar]).await.rejected.len(), 1);
        assert_eq!(world.commit(push).await.status(), 422);
    }
    assert_eq!(world.narinfo(&liar).await, None);
    world.end().await;
}

/// Nix takes a path of another name for none.
#[tokio::test]
async fn a_reference_with_the_name_of_no_path_is_missing() {
    let world = World::new().await;
    let wrong = path(1, "other-name");
    let library = TestNar::new(path(1, "library"), b"library", &[]);
    let program = TestNar::new(path(2, "program"), b"program", &[&wrong]);
    let chunks = [&library.chunks[..], &program.chunks[..]].concat();
    for push in [world.open(&[&library, &program]).await, {
        world.push(&[&library]).await;
        world.open(&[&library, &program]).await
    }] {
        world.upload(&push, &chunks).await;
        world.send_recipes(&push, &[&library, &program]).await;
        let answer = world.commit(&push).await;
        assert_eq!(answer.status(), 422);
        assert_eq!(
            answer.json::<ErrorAnswer>().await.unwrap().missing_references,
            std::slice::from_ref(&wrong)
        );
    }
    assert_eq!(world.narinfo(&program).await, None);
    world.end().await;
}
