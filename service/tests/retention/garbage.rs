//! What nobody will ever use goes, too.

use bytes::Bytes;
use larder_protocol::{chunk::ChunkId, upload::FrameEntry};

use crate::{
    roots::nar,
    world::{DAY, HOUR, World},
};

/// When nothing is kept, nothing is left: no row of a path, NAR or chunk, and no file.
#[tokio::test]
async fn when_nothing_keeps_anything_every_file_goes() {
    let world = World::with(|config| config.caches[0].retention.keep_days = 0).await;
    let anna = world.person().await;
    let base = nar(1, &[]);
    world.push(&anna, &[&nar(2, &[&base]), &base]).await;
    assert!(world.count_objects().await > 0);
    world.sweep().await;
    world.pass(DAY + 1);
    let report = world.sweep().await;
    assert_eq!((report.caches[0].deleted, report.nars), (2, 2));
    assert!(report.chunks >= 2 && report.objects_emptied > 0, "{report:?}");
    assert!(world.count_objects().await > 0, "readers under way keep them for an hour");
    world.pass(HOUR - 1);
    world.sweep().await;
    assert!(world.count_objects().await > 0);
    world.pass(1);
    let report = world.sweep().await;
    assert!(report.objects > 0 && report.object_bytes > 0, "{report:?}");
    assert_eq!(world.count_objects().await, 0);
}

#[tokio::test]
async fn a_push_that_falls_silent_is_given_up_with_all_that_it_brought() {
    let world = World::new().await;
    let anna = world.person().await;
    let (sent, staged) = (nar(1, &[]), nar(2, &[]));
    let silent = world.open(&anna, &[&sent, &staged]).await;
    assert_eq!(world.upload(&anna, &silent, &sent.chunks).await, 200);
    assert!(world.send_recipes(&anna, &silent, &[&sent]).await.unwrap().rejected.is_empty());
    world.pass(6 * HOUR);
    world.sweep().await;
    assert_eq!(world.upload(&anna, &silent, &staged.chunks).await, 200, "it is not silent for long enough");
    world.pass(6 * HOUR + 1);
    world.sweep().await;
    assert_eq!(world.upload(&anna, &silent, &staged.chunks).await, 404);
    assert_eq!(world.commit(&anna, &silent).await.unwrap_err().0, 404);

    // What was sent is there for a push that goes on, as long as the grace.
    let again = world.open(&anna, &[&staged]).await;
    assert_eq!(world.missing(&anna, &again, &staged).await, 0);
    world.pass(7 * HOUR);
    world.sweep().await;
    world.pass(DAY);
    world.sweep_all().await;
    assert_eq!(world.count_objects().await, 0);
}

/// A row that is being written and what was sent of its object, as a killed service leaves them.
#[tokio::test]
async fn what_a_killed_upload_left_goes_with_its_push() {
    let world = World::new().await;
    let anna = world.person().await;
    let opened = world.open(&anna, &[&nar(1, &[])]).await;
    let cache = "main".parse().unwrap();
    let push =
        world.service.metadata.find_push(&cache, &opened.push, "person anna 1", world.now()).await.unwrap();
    world.service.metadata.begin_object("frames/0/left", push.unwrap().id, world.now()).await.unwrap();
    let mut writer = world.service.storage.write("frames/0/left").await.unwrap();
    // More than a bucket is sent at once.
    let frame = Bytes::from(vec![0; 7 << 20]);
    let entry = FrameEntry { id: ChunkId([0; 32]), frame_len: 7 << 20, content_len: 1, holes: Vec::new() };
    writer.write([entry], frame.into()).await.unwrap();
    std::mem::forget(writer);
    world.sweep().await;
    assert_eq!(world.count_objects().await, 1);
    world.pass(6 * HOUR + 1);
    world.sweep().await;
    assert_eq!(world.count_objects().await, 1);
    world.pass(HOUR);
    world.sweep().await;
    assert_eq!(world.count_objects().await, 0);
}
