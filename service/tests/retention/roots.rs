//! Each kind of root keeps, and lets go.

use larder_service::{audit::Event, config::Period, metadata::AuditFilter};

use crate::{
    nar::{TestNar, contents, path},
    world::{DAY, HOUR, World},
};

/// A path of some chunks, alone or with what it refers to.
pub fn nar(seed: u8, references: &[&TestNar]) -> TestNar {
    let references: Vec<_> = references.iter().map(|nar| &nar.info.path).collect();
    TestNar::new(path(seed, "x"), &contents(seed.into(), 60_000, &[]), &references)
}

/// Nothing but runs counts.
async fn only_runs() -> World {
    World::with(|config| {
        let rules = &mut config.caches[0].retention;
        rules.keep_days = 0;
        rules.keep_runs_main = 2;
        rules.keep_runs = 1;
    })
    .await
}

#[tokio::test]
async fn the_last_runs_of_a_branch_keep_their_closures_and_older_ones_let_go() {
    let world = only_runs().await;
    let base = nar(1, &[]);
    let tops: Vec<TestNar> = (2..6).map(|seed| nar(seed, &[&base])).collect();
    for (top, run) in tops.iter().zip(1..) {
        world.push(&world.job("main", run).await, &[top, &base]).await;
        world.pass(HOUR);
    }
    world.sweep_all().await;
    let all: Vec<&TestNar> = tops.iter().chain([&base]).collect();
    assert_eq!(world.visible(&all).await, [false, false, true, true, true]);
    for nar in &all {
        assert_eq!(world.has(nar).await, world.visible(&[nar]).await[0]);
    }
}

#[tokio::test]
async fn a_run_is_the_union_of_its_jobs_and_pushes() {
    let world = only_runs().await;
    let (one, two, other) = (nar(1, &[]), nar(2, &[]), nar(3, &[]));
    let job = world.job("topic", 1).await;
    world.push(&job, &[&one]).await;
    world.push(&world.job("topic", 1).await, &[&two]).await;
    world.push(&world.job("main", 2).await, &[&other]).await;
    world.sweep_all().await;
    assert_eq!(world.visible(&[&one, &two, &other]).await, [true, true, true]);
    world.push(&world.job("topic", 3).await, &[&other]).await;
    world.sweep_all().await;
    assert_eq!(world.visible(&[&one, &two, &other]).await, [false, false, true]);
}

#[tokio::test]
async fn a_branch_from_which_nothing_comes_for_long_lets_go_and_the_main_line_never_does() {
    let world = only_runs().await;
    let (topic, main) = (nar(1, &[]), nar(2, &[]));
    world.push(&world.job("topic", 1).await, &[&topic]).await;
    world.push(&world.job("main", 2).await, &[&main]).await;
    world.pass(29 * DAY);
    world.sweep().await;
    assert_eq!(world.visible(&[&topic, &main]).await, [true, true]);
    world.pass(DAY);
    world.sweep_all().await;
    assert_eq!(world.visible(&[&topic, &main]).await, [false, true]);
}

/// Each push makes known that older runs may be kept anew; those that are not go all the same.
#[tokio::test]
async fn a_branch_that_is_pushed_to_every_day_lets_go_of_its_old_runs() {
    let world = only_runs().await;
    let tops: Vec<TestNar> = (1..9).map(|seed| nar(seed, &[])).collect();
    for (top, run) in tops.iter().zip(1..) {
        world.push(&world.job("main", run).await, &[top]).await;
        world.sweep().await;
        world.pass(DAY);
    }
    let seen = world.visible(&tops.iter().collect::<Vec<_>>()).await;
    assert_eq!(
        seen,
        [false, false, false, false, false, true, true, true],
        "two are kept, one is in its grace"
    );
}

#[tokio::test]
async fn what_is_dropped_goes_after_its_grace_and_what_is_pushed_after_stays() {
    let world = only_runs().await;
    let (old, new) = (nar(1, &[]), nar(2, &[]));
    world.push(&world.job("main", 1).await, &[&old]).await;
    let dropped = |git_ref: &'static str| {
        let metadata = world.service.metadata.clone();
        let now = world.now();
        async move {
            let main = "main".parse().unwrap();
            metadata.drop_roots(&main, "Acme/Flake", Some(git_ref), &Default::default(), now).await.unwrap()
        }
    };
    assert_eq!(dropped("refs/heads/other").await, 0);
    assert_eq!(dropped("refs/heads/main").await, 1);
    world.push(&world.job("main", 2).await, &[&new]).await;
    world.sweep().await;
    world.pass(DAY - 1);
    world.sweep().await;
    assert_eq!(world.visible(&[&old, &new]).await, [true, true]);
    world.pass(2);
    world.sweep().await;
    assert_eq!(world.visible(&[&old, &new]).await, [false, true]);
    // Who let go of it, and what went, is on record.
    let rows =
        world.service.metadata.audit(&AuditFilter { limit: 100, ..AuditFilter::default() }).await.unwrap();
    assert!(rows.iter().all(|row| row.cache.as_deref().is_none_or(|cache| cache == "main")));
    let said: Vec<Event> = rows.iter().map(|row| serde_json::from_str(&row.details).unwrap()).collect();
    let main = Some("refs/heads/main".to_owned());
    let dropped = Event::RootsDropped { repository: "Acme/Flake".to_owned(), git_ref: main, runs: 1 };
    assert!(said.contains(&dropped) && said.contains(&Event::PathsSwept { paths: 1 }), "{said:?}");
}

#[tokio::test]
async fn what_was_pushed_or_read_lately_stays_with_all_that_it_needs() {
    let world = World::with(|config| {
        config.caches[0].retention.keep_days = 7;
        config.caches[0].retention.grace = Period::hours(1);
    })
    .await;
    let base = nar(1, &[]);
    let (read, forgotten) = (nar(2, &[&base]), nar(3, &[&base]));
    let anna = world.person().await;
    world.push(&anna, &[&read, &base]).await;
    world.push(&anna, &[&forgotten, &base]).await;
    world.pass(6 * DAY);
    assert!(world.has(&read).await);
    world.sweep().await;
    world.pass(2 * HOUR);
    world.sweep().await;
    assert_eq!(world.visible(&[&read, &forgotten, &base]).await, [true, true, true]);
    world.pass(DAY);
    world.sweep().await;
    world.pass(2 * HOUR);
    world.sweep().await;
    assert_eq!(world.visible(&[&read, &forgotten, &base]).await, [true, false, true]);
    world.pass(7 * DAY);
    world.sweep().await;
    world.pass(2 * HOUR);
    world.sweep().await;
    assert_eq!(world.visible(&[&read, &forgotten, &base]).await, [false, false, false]);
}

/// Found dead, then wanted again before the next sweep.
#[tokio::test]
async fn what_is_wanted_again_in_its_grace_stays() {
    let world = only_runs().await;
    let (base, other) = (nar(1, &[]), nar(9, &[]));
    let top = nar(2, &[&base]);
    world.push(&world.job("topic", 1).await, &[&top, &base]).await;
    world.push(&world.job("topic", 2).await, &[&other]).await;
    world.sweep().await;
    world.pass(DAY + 1);
    world.push(&world.job("topic", 3).await, &[&top]).await;
    for _ in 0..3 {
        world.sweep().await;
        world.pass(DAY + 1);
    }
    assert_eq!(world.visible(&[&top, &base, &other]).await, [true, true, false]);
    assert!(world.has(&top).await && world.has(&base).await && !world.has(&other).await);
}
