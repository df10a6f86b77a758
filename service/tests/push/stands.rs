//! Whose NAR stands, when several bring one for the same path.

use axum::body::Body;
use http::Request;
use larder_protocol::{
    StorePath, StorePathHash,
    api::{CommittedPush, OpenPush, OpenedPush, Permission},
};
use larder_service::{
    metadata::{DivergenceFilter, NotedDivergence, Outcome},
    router,
    trust::GrantedTo,
};
use tower::ServiceExt as _;

use crate::{
    nar::{TestNar, contents, decompress, path},
    races::cut_off,
    world::World,
};

fn name(who: &Option<GrantedTo>) -> &str {
    match who {
        Some(GrantedTo::Person { name, .. }) => name,
        other => panic!("{other:?}"),
    }
}

async fn noted(world: &World) -> Vec<NotedDivergence> {
    let filter = DivergenceFilter { limit: 100, ..DivergenceFilter::default() };
    world.service.metadata.divergences(&filter).await.unwrap()
}

/// Pushes by a token all that is missing.
async fn push_as(world: &mut World, token: &str, nars: &[&TestNar]) -> CommittedPush {
    world.token = token.to_owned();
    let opened = world.open(nars).await;
    finish(world, opened, nars).await
}

async fn finish(world: &World, opened: OpenedPush, nars: &[&TestNar]) -> CommittedPush {
    if let Some(committed) = opened.committed {
        return committed;
    }
    let missing = |nar: &&&TestNar| opened.missing.contains(&nar.info.path.hash());
    let missing: Vec<&TestNar> = nars.iter().filter(missing).copied().collect();
    for nar in &missing {
        world.upload(&opened, &nar.chunks).await;
    }
    assert!(world.send_recipes(&opened, &missing).await.rejected.is_empty());
    world.commit(&opened).await.json().await.unwrap()
}

async fn replace(world: &World, nar: &TestNar) -> reqwest::Response {
    let open = OpenPush {
        paths: vec![nar.info.clone()],
        roots: vec![nar.info.path.clone()],
        replace: vec![nar.info.path.clone()],
        ..OpenPush::default()
    };
    world.post("", serde_json::to_vec(&open).unwrap()).await
}

/// A path that somebody of low rank squatted before its first build; readers have seen it, others refer to it.
#[tokio::test]
async fn a_higher_rank_replaces_and_both_are_on_record() {
    let mut world = World::new().await;
    let (low, high) = (world.token_of("low", 0, &[]).await, world.token_of("high", 10, &[]).await);
    let squatted = TestNar::new(path(1, "x"), &contents(1, 300_000, &[]), &[]);
    let right = TestNar::new(path(1, "x"), b"right", &[]);
    let user = TestNar::new(path(2, "user"), b"user", &[&squatted.info.path]);
    push_as(&mut world, &low, &[&squatted, &user]).await;
    let before = world.narinfo(&squatted).await.unwrap();
    assert_eq!(before.nar_hash, squatted.info.nar_hash);
    let under_way = world.get(&before.url).await;

    let committed = push_as(&mut world, &high, &[&right]).await;
    assert_eq!((committed.published, committed.replacements.len()), (1, 1));
    assert_eq!(committed.replacements[0].replaced, squatted.info.nar_hash);
    assert_eq!(committed.replacements[0].pushed, right.info.nar_hash);
    assert!(committed.divergences.is_empty());
    let after = world.narinfo(&right).await.unwrap();
    assert_eq!(after.nar_hash, right.info.nar_hash, "readers' memory still has the old one");
    assert_eq!(decompress(&world.get(&after.url).await.bytes().await.unwrap()), right.bytes);
    assert!(world.narinfo(&user).await.unwrap().references.contains(&right.info.path));

    // Who had begun to read the old one, or knows of it, can go on.
    assert_eq!(decompress(&under_way.bytes().await.unwrap()), squatted.bytes);
    assert_eq!(decompress(&world.get(&before.url).await.bytes().await.unwrap()), squatted.bytes);

    let [noted] = &noted(&world).await[..] else { panic!("one divergence") };
    assert_eq!(noted.outcome, Outcome::Replaced);
    assert_eq!((name(&noted.before_by), name(&noted.brought_by)), ("low", "high"));
    assert_eq!((noted.before, noted.brought), (squatted.info.nar_hash, right.info.nar_hash));
    world.end().await;
}

#[tokio::test]
async fn a_lower_or_equal_rank_replaces_nothing_and_the_rest_of_its_push_goes_on() {
    let mut world = World::new().await;
    let high = world.token_of("high", 10, &[]).await;
    let right = TestNar::new(path(1, "x"), b"right", &[]);
    push_as(&mut world, &high, &[&right]).await;
    for (seed, rank) in [(2, 0), (3, 9), (4, 10)] {
        let who = world.token_of(&format!("rank-{rank}"), rank, &[]).await;
        let wrong = TestNar::new(path(1, "x"), format!("wrong {rank}").as_bytes(), &[]);
        let user = TestNar::new(path(seed, "user"), &[seed], &[&wrong.info.path]);
        let committed = push_as(&mut world, &who, &[&wrong, &user]).await;
        assert_eq!(committed.published, 1);
        assert_eq!(committed.divergences[0].kept, right.info.nar_hash);
        assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash);
        assert!(world.narinfo(&user).await.is_some());
        assert_eq!(world.get(&format!("nar/{}", wrong.info.nar_hash.base32())).await.status(), 404);
    }
    let noted = noted(&world).await;
    let brought: Vec<&str> = noted.iter().map(|noted| name(&noted.brought_by)).collect();
    assert_eq!(brought.len(), 3);
    assert!(noted.iter().all(|noted| noted.outcome == Outcome::Kept && name(&noted.before_by) == "high"));
    world.end().await;
}

/// What decides is the moment of the commit, not what was found when a push was opened.
#[tokio::test]
async fn of_pushes_that_race_the_higher_rank_stands_whoever_commits_first() {
    for high_first in [true, false] {
        let mut world = World::new().await;
        let (low, high) = (world.token_of("low", 0, &[]).await, world.token_of("high", 10, &[]).await);
        let wrong = TestNar::new(path(1, "x"), b"wrong", &[]);
        let right = TestNar::new(path(1, "x"), b"right", &[]);
        world.token.clone_from(&low);
        let opened_low = world.open(&[&wrong]).await;
        world.token.clone_from(&high);
        let opened_high = world.open(&[&right]).await;
        let mut pushes = [(&low, opened_low, &wrong), (&high, opened_high, &right)];
        if high_first {
            pushes.reverse();
        }
        for (token, opened, nar) in pushes {
            world.token.clone_from(token);
            finish(&world, opened, &[nar]).await;
        }
        assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash);
        let [noted] = &noted(&world).await[..] else { panic!("one divergence") };
        assert_eq!(noted.outcome, if high_first { Outcome::Kept } else { Outcome::Replaced });
        world.end().await;
    }
}

/// A path that is staged and never committed keeps nobody from bringing it, however low the rank.
#[tokio::test]
async fn a_path_that_is_only_staged_does_not_count() {
    let mut world = World::new().await;
    let (low, high) = (world.token_of("low", 0, &[]).await, world.token_of("high", 10, &[]).await);
    let squatted = TestNar::new(path(1, "x"), b"squatted", &[]);
    let right = TestNar::new(path(1, "x"), b"right", &[]);
    world.token.clone_from(&high);
    let opened = world.open(&[&squatted]).await;
    world.upload(&opened, &squatted.chunks).await;
    world.send_recipes(&opened, &[&squatted]).await;
    let committed = push_as(&mut world, &low, &[&right]).await;
    assert_eq!((committed.published, committed.divergences.len()), (1, 0));
    assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash);
    world.end().await;
}

/// What a higher rank has brought too stands by that rank, though a lower one was the first.
#[tokio::test]
async fn a_path_that_a_higher_rank_confirms_stands_by_it() {
    let mut world = World::new().await;
    let low = world.token_of("low", 0, &[]).await;
    let middle = world.token_of("middle", 5, &[]).await;
    let high = world.token_of("high", 10, &[]).await;
    let right = TestNar::new(path(1, "x"), b"right", &[]);
    let wrong = TestNar::new(path(1, "x"), b"wrong", &[]);
    push_as(&mut world, &low, &[&right]).await;
    world.token.clone_from(&high);
    let opened = world.open(&[&right]).await;
    assert!(opened.missing.is_empty() && opened.committed.is_some(), "nothing needs to be sent");
    let committed = push_as(&mut world, &middle, &[&wrong]).await;
    assert_eq!(committed.divergences.len(), 1);
    assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash);
    assert!(noted(&world).await.iter().all(|noted| noted.outcome == Outcome::Kept));
    world.end().await;
}

/// The same contents with other references are another path to Nix.
#[tokio::test]
async fn other_references_are_a_divergence() {
    let mut world = World::new().await;
    let low = world.token_of("low", 0, &[]).await;
    let library = TestNar::new(path(2, "library"), b"library", &[]);
    let right = TestNar::new(path(1, "x"), b"x", &[&library.info.path]);
    let without = TestNar::new(path(1, "x"), b"x", &[]);
    push_as(&mut world, &low, &[&library, &right]).await;
    let committed = push_as(&mut world, &low, &[&without]).await;
    assert_eq!(committed.divergences.len(), 1);
    assert_eq!(committed.divergences[0].kept, committed.divergences[0].pushed);
    assert_eq!(world.narinfo(&right).await.unwrap().references, [library.info.path.clone()]);
    world.end().await;
}

/// A path under a name that is not its own, which no honest store has.
#[tokio::test]
async fn a_path_squatted_under_another_name_is_replaced_too() {
    let mut world = World::new().await;
    let (low, high) = (world.token_of("low", 0, &[]).await, world.token_of("high", 10, &[]).await);
    let wrong = TestNar::new(path(1, "wrong"), b"x", &[]);
    let right = TestNar::new(path(1, "right"), b"x", &[]);
    push_as(&mut world, &low, &[&wrong]).await;
    push_as(&mut world, &high, &[&right]).await;
    assert_eq!(world.narinfo(&right).await.unwrap().path, right.info.path);
    world.end().await;
}

#[tokio::test]
async fn an_admin_replaces_a_path_on_purpose_and_it_stays() {
    let mut world = World::new().await;
    let high = world.token_of("high", 1000, &[]).await;
    let admin = world.token_of("admin", 0, &[Permission::Admin]).await;
    let wrong = TestNar::new(path(1, "x"), b"wrong", &[]);
    let right = TestNar::new(path(1, "x"), b"right", &[]);
    push_as(&mut world, &high, &[&wrong]).await;
    let before = world.narinfo(&wrong).await.unwrap();

    let refused = replace(&world, &right).await;
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("--permission admin"));
    let committed = push_as(&mut world, &admin, &[&right]).await;
    assert_eq!(committed.divergences.len(), 1, "an admin who does not say so replaces nothing");

    let opened = replace(&world, &right).await.json().await.unwrap();
    let committed = finish(&world, opened, &[&right]).await;
    assert_eq!(committed.replacements.len(), 1);
    assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash);
    assert_eq!(world.get(&before.url).await.status(), 404, "what an admin took away is served to nobody");
    let last = noted(&world).await.pop().unwrap();
    assert_eq!((last.outcome, name(&last.brought_by)), (Outcome::Ordered, "admin"));

    let committed = push_as(&mut world, &high, &[&wrong]).await;
    assert_eq!(committed.divergences.len(), 1);
    assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash);
    world.end().await;
}

#[tokio::test]
async fn only_paths_of_the_closure_can_be_replaced() {
    let mut world = World::new().await;
    world.token = world.token_of("admin", 0, &[Permission::Admin]).await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let other: StorePath = StorePath::new(StorePathHash([9; 20]), "other").unwrap();
    let open = OpenPush { paths: vec![nar.info.clone()], replace: vec![other], ..OpenPush::default() };
    assert_eq!(world.post("", serde_json::to_vec(&open).unwrap()).await.status(), 422);
    world.end().await;
}

/// Readers that were told of the old one hear of the new one, in whatever moment the client goes away.
#[tokio::test]
async fn a_replacement_is_seen_whenever_the_committing_client_goes_away() {
    let mut world = World::new().await;
    let (low, high) = (world.token_of("low", 0, &[]).await, world.token_of("high", 10, &[]).await);
    for polls in 0..12u8 {
        let wrong = TestNar::new(path(polls, "x"), &[polls], &[]);
        let right = TestNar::new(path(polls, "x"), &[polls, 1], &[]);
        push_as(&mut world, &low, &[&wrong]).await;
        world.token.clone_from(&high);
        let opened = world.open(&[&right]).await;
        world.upload(&opened, &right.chunks).await;
        world.send_recipes(&opened, &[&right]).await;
        assert_eq!(world.narinfo(&wrong).await.unwrap().nar_hash, wrong.info.nar_hash);
        let commit = Request::post(format!("/api/v1/caches/main/pushes/{}/commit", opened.push))
            .header("authorization", format!("Bearer {high}"))
            .body(Body::empty())
            .unwrap();
        cut_off(router(world.service.clone()).oneshot(commit), polls).await;
        world.commit(&opened).await;
        assert_eq!(world.narinfo(&right).await.unwrap().nar_hash, right.info.nar_hash, "after {polls} polls");
    }
    world.end().await;
}
