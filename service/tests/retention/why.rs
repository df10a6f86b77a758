//! What would go, and why.

use larder_service::retention::{Fate, fate, plan};

use crate::{
    nar::TestNar,
    roots::nar,
    world::{DAY, World},
};

async fn ask(world: &World, nar: &TestNar) -> Fate {
    let (metadata, config) = (&world.service.metadata, &world.service.config.caches[0]);
    fate(metadata, &config.name, &config.retention, &nar.info.path.hash(), world.now()).await.unwrap()
}

#[tokio::test]
async fn each_path_can_be_asked_why_it_is_there_or_not() {
    let world = World::with(|config| {
        config.caches[0].retention.keep_days = 0;
        config.caches[0].retention.keep_runs = 1;
    })
    .await;
    let base = nar(1, &[]);
    let (old, new) = (nar(2, &[&base]), nar(3, &[&base]));
    world.push(&world.job("topic", 7).await, &[&old, &base]).await;
    let Fate::Kept(way, root) = ask(&world, &base).await else { panic!() };
    assert_eq!(way, [base.info.path.clone(), old.info.path.clone()]);
    assert_eq!(root.kind, "run");
    assert_eq!(root.which, "run 7 of acme/flake, refs/heads/topic, .github/workflows/ci.yml");
    world.push(&world.job("topic", 8).await, &[&new, &base]).await;
    assert!(matches!(ask(&world, &old).await, Fate::Dying(None)));
    let noted = world.now();
    world.sweep().await;
    assert!(matches!(ask(&world, &old).await, Fate::Dying(Some(since)) if since == noted));

    world.pass(DAY);
    let config = &world.service.config.caches[0];
    let plan = plan(&world.service.metadata, &config.name, &config.retention, world.now()).await.unwrap();
    assert_eq!(plan.paths.iter().map(|path| &path.path).collect::<Vec<_>>(), [&old.info.path]);
    assert_eq!((plan.kept.paths, plan.dying.nar_bytes), (2, old.info.nar_size));
    let report = world.sweep().await;
    assert_eq!((report.caches[0].deleted, report.chunk_bytes), (1, plan.frame_bytes));
    assert!(plan.frame_bytes > 0);
    let Fate::Gone(gone) = ask(&world, &old).await else { panic!() };
    assert_eq!((gone.gone_at, gone.dead_since), (world.now(), Some(noted)));
    assert!(gone.provenance.contains("acme/flake"));
    assert!(matches!(ask(&world, &nar(9, &[])).await, Fate::Unknown));
}
