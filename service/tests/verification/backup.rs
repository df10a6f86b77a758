//! Metadata in a file of its own, and a database made anew.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::Command,
};

use larder_service::{
    backup::{self, RebuildReport},
    config::Config,
};

use crate::{
    damage::{all, flip, nar, objects},
    nar::TestNar,
    test_servers,
    world::World,
};

/// Another machine, with a copy of these objects.
async fn machine_with(objects: &Path) -> (tempfile::TempDir, Config) {
    let data = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(objects).arg(data.path().join("objects")).status().unwrap();
    assert!(copied.success());
    let mut config = Config::in_dir(data.path());
    config.database = test_servers::database(data.path()).await;
    config.caches[0].upstreams.clear();
    (data, config)
}

fn export_of(world: &World) -> std::path::PathBuf {
    world.data.path().join("larder.export")
}

/// Pushes go on before, while and after metadata are exported and objects are copied.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_under_load_and_a_later_copy_of_the_objects_make_one_store() {
    let world = World::new().await;
    let anna = world.person().await;
    let nars: Vec<TestNar> = (1..40).map(|seed| nar(seed, &[])).collect();
    let (first, later) = nars.split_at(8);
    for nar in first {
        world.push(&anna, &[nar]).await;
    }
    let (data, config, exported) = tokio::join!(
        async {
            for nar in later {
                world.push(&anna, &[nar]).await;
            }
        },
        async {
            let exported =
                backup::export(&world.service.metadata, Some(&export_of(&world)), world.now()).await.unwrap();
            let (data, config) = machine_with(&world.data.path().join("objects")).await;
            (data, config, exported)
        }
    )
    .1;
    let imported = backup::import(&config, &export_of(&world)).await.unwrap();
    assert_eq!(imported, exported);
    let restored = world.on(data).await;
    let seen = restored.visible(&nars.iter().collect::<Vec<_>>()).await;
    assert!(seen[..8].iter().all(|seen| *seen), "what was there before the export is lost");
    for (nar, _) in nars.iter().zip(seen).filter(|(_, seen)| *seen) {
        assert!(restored.has(nar).await);
    }
    let report = all(&restored).await;
    assert!(report.is_right() && report.mended == 0, "{report:?}");
    // Whoever could push can push what was lost.
    restored.push(&anna, &nars.iter().collect::<Vec<_>>()).await;
    assert!(restored.has(&nars[30]).await);
}

#[tokio::test]
async fn an_import_is_refused_where_it_would_harm_or_cannot_be_right() {
    let world = World::new().await;
    let anna = world.person().await;
    world.push(&anna, &[&nar(1, &[])]).await;
    let file = export_of(&world);
    backup::export(&world.service.metadata, Some(&file), world.now()).await.unwrap();
    let error = backup::import(&world.service.config, &file).await.unwrap_err().to_string();
    assert!(error.contains("in use already") && error.contains("Move it away"), "{error}");

    let (data, config) = machine_with(&world.data.path().join("objects")).await;
    let whole = fs::read(&file).unwrap();
    let text = {
        let mut text = String::new();
        zstd::Decoder::new(&whole[..]).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let write = |text: &str| {
        let mut out = zstd::Encoder::new(fs::File::create(&file).unwrap(), 1).unwrap();
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap();
    };
    let lines: Vec<&str> = text.lines().collect();
    let row = lines.iter().position(|line| line.starts_with('[')).unwrap();
    let without_a_row = [&lines[..row], &lines[row + 1..]].concat().join("\n") + "\n";
    for (changed, told) in [
        (text.replacen("\"schema\":[", "\"schema\":[1", 1), "another schema"),
        (text.replacen("\"format\":1", "\"format\":2", 1), "another schema"),
        (lines[..lines.len() - 1].join("\n") + "\n", "its end is missing"),
        (without_a_row, "rows are missing"),
        (text.replacen("\"table\":\"paths\"", "\"table\":\"sqlite_master\"", 1), "a table that there is not"),
        ("{}\n".to_owned(), "does not say that it is one"),
    ] {
        write(&changed);
        let error = backup::import(&config, &file).await.unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
        assert!(!data.path().join("larder.db").exists(), "{told}: something was left");
    }
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(backup::import(&config, &file).await.is_err());
    fs::write(&file, "not at all").unwrap();
    assert!(backup::import(&config, &file).await.is_err());
    // In the place of one that was started and never used.
    larder_service::open_metadata(&config).await.unwrap().close().await;
    fs::write(&file, &whole).unwrap();
    backup::import(&config, &file).await.unwrap();
    assert!(world.on(data).await.has(&nar(1, &[])).await);
}

/// The database is lost; nothing else is.
async fn lose_database(world: &mut World) -> RebuildReport {
    world.service.metadata.close().await;
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(world.data.path().join(format!("larder.db{end}")));
    }
    let report = backup::rebuild(&world.service.config, world.now()).await.unwrap();
    world.restart().await;
    report
}

#[tokio::test]
async fn a_lost_database_comes_back_from_the_objects() {
    let mut world = World::new().await;
    let job = world.job("main", 1).await;
    let base = nar(1, &[]);
    let (top, other) = (nar(2, &[&base]), nar(3, &[]));
    world.push(&job, &[&top, &base]).await;
    world.push(&job, &[&other]).await;
    // Sent and never published.
    let opened = world.open(&job, &[&nar(4, &[])]).await;
    assert_eq!(world.upload(&job, &opened, &nar(4, &[]).chunks).await, 200);
    let before = [world.narinfo(&top).await, world.narinfo(&base).await, world.narinfo(&other).await];

    let report = lose_database(&mut world).await;
    assert_eq!((report.pushes, report.paths, report.nars), (2, 3, 3), "{report:?}");
    assert_eq!((report.paths_lost, report.nars_lost), (0, 0), "{report:?}");
    assert!(report.unreadable.is_empty());
    for nar in [&top, &base, &other] {
        assert!(world.has(nar).await);
    }
    let after = [world.narinfo(&top).await, world.narinfo(&base).await, world.narinfo(&other).await];
    assert_eq!(before.map(|info| info.unwrap().to_string()), after.map(|info| info.unwrap().to_string()));
    assert!(world.narinfo(&nar(4, &[])).await.is_none());
    assert!(all(&world).await.is_right());

    // Who pushed it is known still, and what the runs keep.
    let main = "main".parse().unwrap();
    let pushed = world.service.metadata.pushed_runs(&main).await.unwrap();
    assert_eq!(pushed.len(), 1);
    assert_eq!((pushed[0].run.repository.as_str(), pushed[0].run.run_id.as_str()), ("acme/flake", "1"));
    // Nothing is to be sent again, and nothing that was not published stays.
    let anna = world.person().await;
    let opened = world.open(&anna, &[&top, &base, &other]).await;
    assert_eq!(opened.present.len(), 3);
    world.sweep_all().await;
    assert_eq!(world.visible(&[&top, &base, &other]).await, [true; 3]);
    let again = world.open(&anna, &[&nar(4, &[])]).await;
    assert!(world.missing(&anna, &again, &nar(4, &[])).await > 0);

    // It can be lost again.
    assert_eq!(lose_database(&mut world).await.paths, 3);
    assert!(world.has(&top).await);
}

#[tokio::test]
async fn what_is_damaged_does_not_come_back_until_it_is_pushed_again() {
    let mut world = World::new().await;
    let anna = world.person().await;
    let (one, other) = (nar(1, &[]), nar(2, &[]));
    world.push(&anna, &[&one]).await;
    let damaged = objects(&world, "frames").await.remove(0);
    flip(&world, &damaged, |_| 5000).await;
    world.push(&anna, &[&other]).await;
    let report = lose_database(&mut world).await;
    assert_eq!((report.paths, report.paths_lost, report.nars_lost), (1, 1, 1), "{report:?}");
    assert!(world.narinfo(&one).await.is_none() && world.has(&other).await);
    assert!(all(&world).await.is_right());
    let anna = world.person().await;
    world.push(&anna, &[&one]).await;
    assert!(world.has(&one).await);

    // Without an index, what lies there does not come back, and is said.
    let other = objects(&world, "frames").await.into_iter().find(|object| *object != damaged).unwrap();
    flip(&world, &other, |length| length - 1).await;
    let report = lose_database(&mut world).await;
    assert_eq!(report.unreadable.len(), 1);
    assert!(report.paths < 2);
}

/// What belongs to a private cache comes back to it alone, and no other cache ever gets its number.
#[tokio::test]
async fn a_private_caches_chunks_are_its_own_after_a_rebuild() {
    let mut world = World::with(|config| config.caches[0].public = false).await;
    let anna = world.person().await;
    let nar = nar(1, &[]);
    world.push(&anna, &[&nar]).await;
    let namespace = world.service.caches.get(&"main".parse().unwrap()).unwrap().namespace();
    assert!(namespace.0 > 0);
    let report = lose_database(&mut world).await;
    assert_eq!(report.paths, 1, "{report:?}");
    let main = "main".parse().unwrap();
    assert_eq!(world.service.caches.get(&main).unwrap().namespace(), namespace);
    assert_eq!(world.visible(&[&nar]).await, [true]);
    let other = world.service.metadata.settle_namespace(&"other".parse().unwrap(), false).await.unwrap();
    assert!(
        matches!(other, larder_service::metadata::Settled::In(other) if other.0 > namespace.0),
        "{other:?}"
    );
    // And it cannot become public by that.
    let public = world.service.metadata.settle_namespace(&main, true).await.unwrap();
    assert!(matches!(public, larder_service::metadata::Settled::WasOtherwise), "{public:?}");
}
