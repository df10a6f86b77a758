//! Objects of which little is in use are rewritten, small ones merged; nobody who reads notices.

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use larder_protocol::{
    StorePath, StorePathHash,
    chunk::CutChunk,
    recipe,
    upload::{FrameEntry, decode_index},
};
use larder_service::metadata::{MovedFrame, ObjectId};
use tower::ServiceExt as _;

use crate::{
    nar::{TestNar, contents, decompress},
    roots::nar,
    world::{DAY, HOUR, Pusher, World},
};

/// Nothing but the last run of each branch counts.
pub async fn world() -> World {
    World::with(|config| {
        let rules = &mut config.caches[0].retention;
        rules.keep_days = 0;
        rules.keep_runs = 1;
        rules.keep_runs_main = 1;
    })
    .await
}

/// Pushes paths, all of whose chunks go into one object, chunk about chunk.
pub async fn push_into_one_object(world: &World, who: &Pusher, nars: &[&TestNar]) {
    let opened = world.open(who, nars).await;
    let longest = nars.iter().map(|nar| nar.chunks.len()).max().unwrap();
    let mixed: Vec<CutChunk> =
        (0..longest).flat_map(|n| nars.iter().filter_map(move |nar| nar.chunks.get(n))).cloned().collect();
    assert_eq!(world.upload(who, &opened, &mixed).await, 200);
    assert!(world.send_recipes(who, &opened, nars).await.unwrap().rejected.is_empty());
    world.commit(who, &opened).await.unwrap();
}

/// Two paths in one object, of which one is kept and makes up less than half. The other is dead for a sweep that comes a
/// day after one that comes now.
pub async fn half_dead(world: &World) -> TestNar {
    half_dead_of(world, 0).await
}

/// Another such pair for each number.
pub async fn half_dead_of(world: &World, number: u8) -> TestNar {
    let seed = 1000 + 2 * u64::from(number);
    let named = |name| StorePath::new(StorePathHash([number; 20]), name).unwrap();
    let kept = TestNar::new(named("kept"), &contents(seed, 1_500_000, &[]), &[]);
    let mut hash = [number; 20];
    hash[0] = 255 - number;
    let goes = StorePath::new(StorePathHash(hash), "goes").unwrap();
    let goes = TestNar::new(goes, &contents(seed + 1, 2_500_000, &[]), &[]);
    let run = 10 * u64::from(number) + 1;
    push_into_one_object(world, &world.job("topic", run).await, &[&goes, &kept]).await;
    world.push(&world.job(&format!("keeps-{number}"), run).await, &[&kept]).await;
    world.push(&world.job("topic", run + 1).await, &[&nar(99, &[])]).await;
    kept
}

/// What a path's file is, as Nix downloads it.
pub async fn compressed(world: &World, nar: &TestNar) -> Bytes {
    let Some(narinfo) = world.narinfo(nar).await else { panic!("{} is not there", nar.info.path) };
    let (status, bytes) = world.get(&narinfo.url).await;
    assert_eq!(status, 200);
    bytes
}

/// The entries of the index at an object's end.
fn index(object: &[u8]) -> Vec<FrameEntry> {
    let (rest, end) = object.split_at(object.len() - 16);
    assert_eq!(end[8..], *b"LARDEROX");
    let length = usize::try_from(u64::from_le_bytes(end[..8].try_into().unwrap())).unwrap();
    let (entries, read) = decode_index(&rest[rest.len() - length..]).unwrap().unwrap();
    assert_eq!(read, length);
    let frames: usize = entries.iter().map(|entry| entry.frame_len as usize).sum();
    assert_eq!(frames, rest.len() - length, "frames, index, end, and nothing between");
    entries
}

#[tokio::test]
async fn what_is_mostly_dead_is_rewritten_and_its_file_goes_an_hour_later() {
    let world = world().await;
    let kept = half_dead(&world).await;
    let before = compressed(&world, &kept).await;
    let old = largest(&world).await;
    world.sweep().await;
    world.pass(DAY + 1);
    let report = world.sweep().await;
    assert_eq!((report.caches[0].deleted, report.compaction.replaced), (1, 1), "{report:?}");
    assert!(report.compaction.replaced_bytes > 3_500_000 && report.compaction.written_bytes < 2_000_000);
    assert!(world.objects().sizes().await.contains_key(&old), "readers under way keep it for an hour");
    assert_eq!(compressed(&world, &kept).await, before, "not one byte is another");
    world.pass(HOUR);
    world.sweep().await;
    assert!(!world.objects().sizes().await.contains_key(&old));
    assert_eq!(compressed(&world, &kept).await, before);
    world.assert_storage_fits().await;

    // The new one can be found again by itself.
    let object = world.objects().read(&largest(&world).await).await;
    let named: Vec<_> = index(&object).into_iter().map(|entry| entry.id).collect();
    assert_eq!(named, kept.chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>());
    // Once is enough.
    let report = world.sweep().await;
    assert_eq!(report.compaction.written, 0, "{report:?}");
}

async fn largest(world: &World) -> String {
    world.objects().sizes().await.into_iter().max_by_key(|(_, size)| *size).unwrap().0
}

#[tokio::test]
async fn many_small_objects_become_few() {
    let world = World::new().await;
    let anna = world.person().await;
    let nars: Vec<TestNar> = (1..12).map(|seed| nar(seed, &[])).collect();
    for nar in &nars {
        world.push(&anna, &[nar]).await;
    }
    // Frames, recipes and a record of each push.
    assert_eq!(world.count_objects().await, 33);
    let mut before = Vec::new();
    for nar in &nars {
        before.push(compressed(&world, nar).await);
    }
    // For as long as the grace, a push that was cut off may go on with what is there.
    world.pass(DAY - 1);
    assert_eq!(world.sweep().await.compaction.written, 0);
    world.pass(2);
    world.sweep().await;
    world.pass(HOUR);
    world.sweep().await;
    let left = world.objects().sizes().await;
    assert_eq!(left.len(), 2 + 11, "{left:?}");
    world.assert_storage_fits().await;
    for (nar, before) in nars.iter().zip(before) {
        assert_eq!(compressed(&world, nar).await, before);
    }

    // The recipes too: all of them, whole.
    let key = world.objects().sizes().await.into_keys().find(|key| key.starts_with("recipes/")).unwrap();
    let recipes = world.objects().read(&key).await;
    let mut recipes = recipe::decode(&recipes).unwrap();
    let mut expected: Vec<_> = nars.iter().map(TestNar::recipe).collect();
    recipes.sort_by_key(|recipe| recipe.nar_hash.0);
    expected.sort_by_key(|recipe| recipe.nar_hash.0);
    assert_eq!(recipes, expected);
}

/// A reader that has had the first bytes when all the rest moves, and the file that it came from goes.
#[tokio::test]
async fn a_reader_under_way_does_not_notice_that_what_it_reads_moves() {
    for range in [None, Some(700_000)] {
        let world = world().await;
        let kept = half_dead(&world).await;
        let whole = compressed(&world, &kept).await;
        let url = world.narinfo(&kept).await.unwrap().url;
        let mut request = Request::get(format!("/main/{url}"));
        if let Some(from) = range {
            request = request.header("range", format!("bytes={from}-"));
        }
        let answer = larder_service::router(world.service.clone())
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let mut body = answer.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let old = largest(&world).await;
        world.sweep().await;
        world.pass(DAY + 1);
        assert_eq!(world.sweep().await.compaction.replaced, 1);
        world.pass(HOUR);
        world.sweep().await;
        assert!(!world.objects().sizes().await.contains_key(&old));
        let rest = body.collect().await.unwrap().to_bytes();
        assert!([&first[..], &rest[..]].concat() == whole[range.unwrap_or(0)..]);
        assert!(decompress(&whole) == kept.bytes);
    }
}

/// What cannot be read stays where it is, and keeps nobody else from moving.
#[tokio::test]
async fn what_cannot_be_read_stays_as_it_is() {
    let world = world().await;
    half_dead(&world).await;
    let damaged = largest(&world).await;
    let kept = half_dead_of(&world, 1).await;
    let before = compressed(&world, &kept).await;
    world.objects().change(&damaged, |bytes| bytes.truncate(bytes.len() / 2)).await;
    world.sweep().await;
    world.pass(DAY + 1);
    let report = world.sweep().await;
    assert_eq!(report.compaction.replaced, 1, "{report:?}");
    world.pass(HOUR);
    world.sweep().await;
    assert!(world.objects().sizes().await.contains_key(&damaged));
    assert!(compressed(&world, &kept).await == before);
}

/// A row that says another place by now than the one that was copied from is left alone.
#[tokio::test]
async fn what_lies_elsewhere_by_now_does_not_move() {
    let world = World::new().await;
    let anna = world.person().await;
    let (one, other) = (nar(1, &[]), nar(2, &[]));
    world.push(&anna, &[&one]).await;
    world.push(&anna, &[&other]).await;
    let metadata = &world.service.metadata;
    let new = metadata.begin_compacted("frames/0/new", world.now()).await.unwrap();
    let mut objects = Vec::new();
    for object in (1..new.0).map(ObjectId) {
        objects.extend(
            metadata.frames_in(object, 0).await.unwrap().first().map(|frame| (object, frame.clone())),
        );
    }
    let [(first, frame), (second, _)] = objects.try_into().unwrap();
    let moved = MovedFrame { chunk: frame.chunk, source: first, was: frame.offset, becomes: 7 };
    let elsewhere = [MovedFrame { source: second, ..moved }, MovedFrame { was: frame.offset + 1, ..moved }];
    assert_eq!(metadata.move_frames(new, 100, &elsewhere).await.unwrap(), 0);
    assert!(world.has(&one).await && world.has(&other).await);
    assert_eq!(metadata.move_frames(new, 100, &[moved]).await.unwrap(), 1);

    // Once somebody has given the object up, nothing moves there.
    let given_up = metadata.begin_compacted("frames/0/late", world.now()).await.unwrap();
    assert_eq!(metadata.doom_objects(&[given_up.0], world.now()).await.unwrap().rows, 1);
    let back = MovedFrame { source: new, was: 7, ..moved };
    assert!(metadata.move_frames(given_up, 100, &[back]).await.unwrap_err().is_gone());
}
