//! A database that a newer release has brought further: it has added to it, and taken nothing away.

use larder_protocol::prefetch::PrefetchState;
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    metadata::AuditFilter,
};

use crate::{
    nar::{TestNar, contents, path},
    test_servers,
    upstream::UpstreamCache,
    world::World,
};

/// A number that no change of the schema has yet.
const NEWER: i64 = 9000;

/// What the newer release does when it starts.
async fn expand(world: &World) {
    for table in world.tables().await {
        world.sql(&format!("ALTER TABLE {table} ADD COLUMN later TEXT")).await;
    }
    let noted = format!(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         SELECT {NEWER}, 'later', success, checksum, execution_time FROM _sqlx_migrations LIMIT 1"
    );
    world.sql("CREATE TABLE later (id BIGINT PRIMARY KEY)").await;
    world.sql(&noted).await;
}

#[tokio::test]
async fn a_service_that_runs_goes_on_and_one_that_starts_says_which_to_run() {
    let nars: Vec<TestNar> =
        (1..=2).map(|seed| TestNar::new(path(seed, "x"), &contents(seed.into(), 50_000, &[]), &[])).collect();
    let upstream = UpstreamCache::start().await;
    nars.iter().for_each(|nar| upstream.has(nar, "xz"));
    let world = World::new(&[upstream.configured()]).await;
    let before = world.complete(&[&nars[0]]).await;
    // Each of the connections that read knows the statements by then.
    let tell_all = async || {
        let told = futures_util::future::join_all((0..16).map(|_| world.tell(&before.id))).await;
        assert!(told.iter().all(|told| told.state == PrefetchState::Complete), "{told:?}");
        let filter = AuditFilter { limit: 10, ..AuditFilter::default() };
        assert!(!world.service.metadata.audit(&filter).await.unwrap().is_empty());
    };
    tell_all().await;
    expand(&world).await;

    tell_all().await;
    world.complete(&[&nars[1]]).await;
    assert!(world.has(&[&nars[0], &nars[1]]).await);
    larder_service::retention::sweep(&world.service).await.unwrap();

    let data = world.directory();
    let environment = Environment::from([("LARDER_DATA_DIR", data.to_str().unwrap())]);
    let mut config = Config::parse("larder.toml".as_ref(), "", &environment).unwrap();
    test_servers::place(&mut config, data).await;
    let refusal = Service::open(config, Clock::System).await.err().unwrap().to_string();
    for part in ["a newer larderd", "number 9000", "Run that release"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    assert!(world.has(&[&nars[0], &nars[1]]).await);
    world.end().await;
}
