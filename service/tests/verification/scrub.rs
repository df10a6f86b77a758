//! The scrub: by and by, and going on after a restart.

use std::sync::atomic::Ordering;

use larder_service::verification::scrub_step;

use crate::{
    damage::{flip, nar, objects},
    world::{DAY, World},
};

/// Steps until the round is over; tells how many that were.
async fn round(world: &World) -> usize {
    let mut steps = 1;
    while scrub_step(&world.service).await.unwrap() {
        steps += 1;
        assert!(steps < 1000);
    }
    steps
}

#[tokio::test]
async fn the_scrub_finds_damage_and_goes_on_where_it_was() {
    let mut world = World::new().await;
    let anna = world.person().await;
    let nars: Vec<_> = (1..5).map(|seed| nar(seed, &[])).collect();
    for nar in &nars {
        world.push(&anna, &[nar]).await;
    }
    let whole = round(&world).await;
    assert!(whole > nars.len());
    assert!(!scrub_step(&world.service).await.unwrap(), "the next round is not due");
    assert_eq!(world.service.verification.counts.rounds.load(Ordering::Relaxed), 1);

    world.pass(30 * DAY);
    flip(&world, &objects(&world, "frames").await[0], |_| 5000).await;
    let before = world.service.metadata.scrub_position().await.unwrap().unwrap();
    for _ in 0..3 {
        assert!(scrub_step(&world.service).await.unwrap());
    }
    let at = world.service.metadata.scrub_position().await.unwrap().unwrap();
    assert!(at.began_at > before.began_at && at.finished_at.is_none());
    world.restart().await;
    assert_eq!(round(&world).await, whole - 3, "it began anew");
    let counts = &world.service.verification.counts;
    assert_eq!(
        world.visible(&nars.iter().collect::<Vec<_>>()).await.iter().filter(|visible| !**visible).count(),
        1
    );
    assert!(counts.rounds.load(Ordering::Relaxed) == 1 && counts.nars.load(Ordering::Relaxed) >= 3);

    // A round that is never to be.
    world.pass(30 * DAY);
    let off = World::with(|config| config.retention.scrub_every = None).await;
    assert!(!scrub_step(&off.service).await.unwrap());
}
