//! Bits flipped in objects.

use larder_service::verification::{Outcome, Scope, VerifyReport, verify};

use crate::{
    nar::{TestNar, contents, path},
    world::{DAY, World},
};

pub fn nar(seed: u8, references: &[&TestNar]) -> TestNar {
    let references: Vec<_> = references.iter().map(|nar| &nar.info.path).collect();
    let contents = contents(seed.into(), 400_000, &references);
    TestNar::new(path(seed, &format!("path-{seed}")), &contents, &references)
}

/// The objects of a folder, the oldest first.
pub async fn objects(world: &World, folder: &str) -> Vec<String> {
    world.objects().by_age(folder).await
}

pub async fn flip(world: &World, object: &str, byte: impl FnOnce(usize) -> usize) {
    world
        .objects()
        .change(object, |bytes| {
            let byte = byte(bytes.len());
            bytes[byte] ^= 4;
        })
        .await;
}

pub async fn all(world: &World) -> VerifyReport {
    verify(&world.service, Scope::All).await.unwrap()
}

pub fn found<'a>(report: &'a VerifyReport, what: &str) -> Vec<&'a Outcome> {
    report.findings.iter().filter(|finding| finding.what == what).map(|finding| &finding.outcome).collect()
}

#[tokio::test]
async fn what_is_right_is_found_right_and_all_of_it_is_looked_at() {
    let world = World::new().await;
    let anna = world.person().await;
    let base = nar(1, &[]);
    let top = nar(2, &[&base]);
    world.push(&anna, &[&top, &base]).await;
    let report = all(&world).await;
    assert!(report.is_right() && report.findings.is_empty(), "{report:?}");
    assert_eq!((report.nars, report.paths, report.records), (2, 2, 1));
    assert_eq!(report.frames, (top.chunks.len() + base.chunks.len()) as u64);
    assert_eq!(report.nar_bytes, top.info.nar_size + base.info.nar_size);
    assert!(report.recipes >= 2 && report.objects > 0);
}

/// At each of many places of each object: it is found, the path is not served, and the next push brings it again.
#[tokio::test]
async fn a_bit_in_a_frame_is_found_and_the_next_push_mends_it() {
    let world = World::new().await;
    let anna = world.person().await;
    let base = nar(1, &[]);
    let top = nar(2, &[&base]);
    world.push(&anna, &[&top, &base]).await;
    for share in [0, 3, 7] {
        let newest = objects(&world, "frames").await.pop().unwrap();
        flip(&world, &newest, |length| length * share / 10 + 40).await;
        // They are rendered and remembered before.
        let (base_seen, top_seen) = (world.narinfo(&base).await, world.narinfo(&top).await);
        assert!(base_seen.is_some() && top_seen.is_some());
        let report = all(&world).await;
        assert!(!report.is_right(), "a flipped bit was not found");
        assert_eq!(found(&report, "chunk"), [&Outcome::Withdrawn], "{report:?}");
        assert_eq!(report.waiting.len(), 1);

        let damaged: Vec<&TestNar> = {
            let visible = world.visible(&[&base, &top]).await;
            [&base, &top]
                .into_iter()
                .zip(visible)
                .filter(|(_, visible)| !visible)
                .map(|(nar, _)| nar)
                .collect()
        };
        assert_eq!(damaged.len(), 1);
        assert!(world.narinfo(damaged[0]).await.is_none(), "it is advertised from memory");
        let url = if damaged[0].info.path == base.info.path { base_seen } else { top_seen }.unwrap().url;
        assert_eq!(world.get(&url).await.0, 404);
        let other = if damaged[0].info.path == base.info.path { &top } else { &base };
        assert!(world.has(other).await, "what is right is served");

        // It is said again until it is mended.
        assert!(!all(&world).await.is_right());
        let opened = world.open(&anna, &[&top, &base]).await;
        assert_eq!(opened.missing, [damaged[0].info.path.hash()]);
        assert_eq!(world.missing(&anna, &opened, damaged[0]).await, 1, "only the damaged chunk is sent");
        world.send(&anna, &opened, &[&top, &base]).await;
        world.commit(&anna, &opened).await.unwrap();
        assert!(world.has(&base).await && world.has(&top).await);
        let report = all(&world).await;
        assert!(report.is_right(), "{report:?}");
    }
    // What was damaged goes as all goes that nobody needs.
    world.sweep_all().await;
    world.pass(DAY);
    world.sweep_all().await;
    let report = all(&world).await;
    assert!(report.is_right() && report.findings.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_bit_in_an_index_is_mended_and_nothing_is_withdrawn() {
    let world = World::new().await;
    let anna = world.person().await;
    let nar = nar(1, &[]);
    world.push(&anna, &[&nar]).await;
    // The end, the index's length, and somewhere in the index itself.
    for back in [1, 12, 40, 60, 100] {
        let newest = objects(&world, "frames").await.pop().unwrap();
        flip(&world, &newest, |length| length - back).await;
        let report = all(&world).await;
        assert!(report.is_right(), "{back}: {report:?}");
        assert_eq!(found(&report, "index"), [&Outcome::Mended], "{back}: {report:?}");
        let report = all(&world).await;
        assert!(report.findings.is_empty(), "{report:?}");
        assert!(world.has(&nar).await);
    }
}

#[tokio::test]
async fn a_bit_in_recipes_or_records_is_mended() {
    let world = World::new().await;
    let anna = world.person().await;
    let nar = nar(1, &[]);
    world.push(&anna, &[&nar]).await;
    for (folder, what, places) in
        [("recipes", "recipe", vec![3, 20, 50, 70]), ("paths", "record", vec![3, 20, 60])]
    {
        for place in places {
            let newest = objects(&world, folder).await.pop().unwrap();
            flip(&world, &newest, |_| place).await;
            let report = all(&world).await;
            assert!(report.is_right(), "{folder} {place}: {report:?}");
            assert_eq!(found(&report, what), [&Outcome::Mended], "{folder} {place}: {report:?}");
            let report = all(&world).await;
            assert!(report.findings.is_empty(), "{report:?}");
            assert!(world.has(&nar).await);
        }
    }
}

#[tokio::test]
async fn a_lost_file_is_found_and_the_next_push_brings_what_lay_there() {
    let world = World::new().await;
    let anna = world.person().await;
    let (one, other) = (nar(1, &[]), nar(2, &[]));
    world.push(&anna, &[&one]).await;
    world.push(&anna, &[&other]).await;
    world.objects().delete(&objects(&world, "frames").await[0]).await;
    let report = all(&world).await;
    assert!(report.withdrawn > 0 && report.waiting.len() == 1, "{report:?}");
    world.push(&anna, &[&one]).await;
    world.push(&anna, &[&other]).await;
    assert!(world.has(&one).await && world.has(&other).await);
    assert!(all(&world).await.is_right());

    // One that is cut short.
    let short = &objects(&world, "frames").await[0];
    world.objects().change(short, |bytes| bytes.truncate(1000)).await;
    assert!(!all(&world).await.is_right());
    world.push(&anna, &[&one, &other]).await;
    assert!(all(&world).await.is_right());

    // One that nobody knows does no harm.
    world.objects().write("frames/0/stray", b"x".into()).await;
    let report = all(&world).await;
    assert!(report.is_right());
    assert_eq!((report.unreferenced, report.unreferenced_bytes), (1, 1));
}

/// Where all is gone, most likely a disk is not mounted, or another bucket is named: nothing is taken for lost.
#[tokio::test]
async fn where_none_of_the_objects_is_there_nothing_is_withdrawn() {
    let world = World::new().await;
    let anna = world.person().await;
    let nar = nar(1, &[]);
    world.push(&anna, &[&nar]).await;
    let (objects, mut elsewhere) = (world.objects(), Vec::new());
    for key in objects.sizes().await.into_keys() {
        elsewhere.push((objects.read(&key).await, key.clone()));
        objects.delete(&key).await;
    }
    // Nor where there are those of somebody else.
    for stray in [None, Some("stray")] {
        if let Some(key) = stray {
            objects.write(key, b"x".into()).await;
        }
        let error = verify(&world.service, Scope::All).await.unwrap_err().to_string();
        assert!(error.contains("Is its disk mounted"), "{error}");
    }
    objects.delete("stray").await;
    for (bytes, key) in elsewhere {
        objects.write(&key, bytes).await;
    }
    assert!(world.has(&nar).await);
    assert!(all(&world).await.findings.is_empty());
}

/// One path alone is read, and mended the same way.
#[tokio::test]
async fn one_path_is_verified_by_itself() {
    let world = World::new().await;
    let anna = world.person().await;
    let (one, other) = (nar(1, &[]), nar(2, &[]));
    world.push(&anna, &[&one]).await;
    let frames = objects(&world, "frames").await.remove(0);
    world.push(&anna, &[&other]).await;
    flip(&world, &frames, |_| 5000).await;
    let report = verify(&world.service, Scope::Path(other.info.path.hash())).await.unwrap();
    assert!(report.is_right() && report.nars == 1, "{report:?}");
    let report = verify(&world.service, Scope::Path(one.info.path.hash())).await.unwrap();
    assert!(!report.is_right());
    assert_eq!(world.visible(&[&one, &other]).await, [false, true]);
    let report = verify(&world.service, Scope::Path(one.info.path.hash())).await.unwrap();
    assert_eq!(found(&report, "path"), [&Outcome::Lost]);
}

/// A push that was told what is there before it was found damaged must send it again before it is committed.
#[tokio::test]
async fn a_push_under_way_cannot_publish_what_was_found_damaged() {
    let world = World::new().await;
    let anna = world.person().await;
    let first = nar(1, &[]);
    world.push(&anna, &[&first]).await;
    // The same contents under another name: its NAR is reused.
    let mut again = nar(1, &[]);
    again.info.path = path(9, "another");
    let opened = world.open(&anna, &[&again, &nar(2, &[])]).await;
    assert_eq!(opened.reused, [again.info.path.hash()]);
    flip(&world, &objects(&world, "frames").await[0], |_| 5000).await;
    assert!(!all(&world).await.is_right());
    assert_eq!(world.missing(&anna, &opened, &again).await, 1);
    assert_eq!(world.upload(&anna, &opened, &nar(2, &[]).chunks).await, 200);
    world.send_recipes(&anna, &opened, &[&nar(2, &[])]).await.unwrap();
    assert_eq!(world.commit(&anna, &opened).await.unwrap_err().0, 422);
    assert_eq!(world.upload(&anna, &opened, &again.chunks).await, 200);
    assert!(world.send_recipes(&anna, &opened, &[&again]).await.unwrap().rejected.is_empty());
    world.commit(&anna, &opened).await.unwrap();
    assert!(world.has(&again).await);
    assert!(world.narinfo(&first).await.is_none());
    world.push(&anna, &[&first]).await;
    assert!(all(&world).await.is_right());
}

#[tokio::test]
async fn whoever_verifies_one_lost_object_looks_for_what_that_takes_and_not_for_what_waits_already() {
    let world = World::new().await;
    let anna = world.person().await;
    world.push(&anna, &[&nar(1, &[])]).await;
    let first = objects(&world, "frames").await.remove(0);
    world.push(&anna, &[&nar(2, &[])]).await;
    let second = objects(&world, "frames").await.into_iter().find(|object| *object != first).unwrap();
    for (object, its) in [(first, "path-1"), (second, "path-2")] {
        flip(&world, &object, |_| 5000).await;
        world.pass(DAY);
        let report = verify(&world.service, Scope::Object(object)).await.unwrap();
        assert!(report.waiting.len() == 1 && report.waiting[0].ends_with(its), "{report:?}");
    }
    assert_eq!(all(&world).await.waiting.len(), 2);
}
