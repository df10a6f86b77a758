//! What holds of one storage holds of all: files, a bucket, memory.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use larder_protocol::upload::FrameEntry;
use larder_service::{
    metadata::StoredChunk,
    storage::{Ingredient, ObjectWriter, Piece, Storage},
};
use larder_tests::{
    bucket::Bucket,
    garage,
    package::{Frame, noise},
};
use object_store::memory::InMemory;
use tempfile::TempDir;

fn frames(number: usize, size: usize) -> Vec<Frame> {
    (0..number)
        .map(|_| {
            let content = noise(size);
            Frame::of_content(&content, zstd::bulk::compress(&content, 3).unwrap())
        })
        .collect()
}

/// Writes an object, and says where each frame lies.
async fn write(storage: &Storage, key: &str, frames: &[Frame]) -> (Vec<Ingredient>, u64) {
    let mut writer = storage.write(key).await.unwrap();
    let mut ingredients = Vec::new();
    for pair in frames.chunks(2) {
        let entries: Vec<FrameEntry> = pair.iter().map(|frame| frame.entry.clone()).collect();
        let payload = pair.iter().map(|frame| Bytes::from(frame.bytes.clone())).collect();
        let mut offset = writer.write(entries, payload).await.unwrap();
        for frame in pair {
            let chunk = StoredChunk {
                id: 0,
                object: key.into(),
                frame_offset: offset,
                frame_len: frame.entry.frame_len,
                content_len: frame.entry.content_len,
                holes: Box::default(),
            };
            ingredients.push((chunk, Box::default()));
            offset += u64::from(frame.entry.frame_len);
        }
    }
    (ingredients, writer.finish().await.unwrap())
}

/// What every storage does.
async fn conforms(storage: &Storage) {
    storage.ping().await.unwrap();
    let (first, second) = (frames(7, 40_000), frames(4, 40_000));
    let (a, length) = write(storage, "frames/public/a", &first).await;
    let (b, _) = write(storage, "frames/public/b", &second).await;
    assert!(length > first.iter().map(|frame| frame.bytes.len() as u64).sum());

    // In any order, of several objects, with gaps, again and again.
    let recipe: Vec<Ingredient> =
        [&a[3], &a[4], &b[0], &a[0], &b[3], &b[2], &a[6], &a[3]].map(Clone::clone).to_vec();
    let wanted: Vec<u8> =
        [&first[3], &first[4], &second[0], &first[0], &second[3], &second[2], &first[6], &first[3]]
            .iter()
            .flat_map(|frame| frame.bytes.clone())
            .collect();
    assert!(storage.read_frames(&recipe).await.unwrap() == wanted);
    assert_eq!(storage.read_frames(&[]).await.unwrap(), b"");

    // What was given up, or never ended, was never there.
    let mut given_up = storage.write("frames/public/c").await.unwrap();
    given_up.write([first[0].entry.clone()], Bytes::from(first[0].bytes.clone()).into()).await.unwrap();
    given_up.abort().await;
    let (mut chunk, hashes) = a[0].clone();
    chunk.object = "frames/public/c".into();
    storage.read_frames(&[(chunk.clone(), hashes.clone())]).await.unwrap_err();
    // Nor is what lies behind an object's end.
    chunk.object = "frames/public/a".into();
    for offset in [length - 10, length + 10] {
        chunk.frame_offset = offset;
        assert!(storage.read_frames(&[(chunk.clone(), hashes.clone())]).await.unwrap_err().is_lost());
    }

    // Small ones, written and read whole.
    storage.put("recipes/d", Bytes::from_static(b"small")).await.unwrap();
    assert_eq!(storage.get("recipes/d", 5).await.unwrap(), b"small");
    storage.get("recipes/d", 4).await.unwrap_err();
    assert!(storage.get("recipes/e", 5).await.unwrap_err().is_lost());

    // What is there, and how long it is.
    let index = storage.index("frames/public/a", length).await.unwrap().unwrap();
    let entries: Vec<&FrameEntry> = index.iter().map(|(entry, _)| entry).collect();
    assert_eq!(entries, first.iter().map(|frame| &frame.entry).collect::<Vec<_>>());
    assert!(storage.index("recipes/d", 5).await.unwrap().is_err(), "it has no index");
    assert_eq!(storage.size("frames/public/a").await.unwrap(), Some(length));
    assert_eq!(storage.size("frames/public/c").await.unwrap(), None);
    let list = async |folder: &str| {
        let mut found: Vec<(String, u64)> = storage.list(folder).try_collect().await.unwrap();
        found.sort();
        found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, ["frames/public/a", "frames/public/b", "recipes/d"]);
    assert_eq!(list("frames").await, ["frames/public/a", "frames/public/b"]);
    assert_eq!(list("frames/pub").await, [""; 0], "that is no folder");

    for key in ["frames/public/a", "recipes/d", "frames/public/c", "never/there"] {
        storage.delete(key).await.unwrap();
    }
    assert_eq!(list("").await, ["frames/public/b"]);
    assert!(storage.read_frames(&a[..1]).await.unwrap_err().is_lost());
    assert!(storage.read_frames(&b[..1]).await.unwrap() == second[0].bytes);
}

/// What is larger than what one request carries: whole or not at all.
async fn takes_large_objects(storage: &Storage) {
    let frames = frames(14, 1_000_000);
    let (ingredients, length) = write(storage, "frames/public/large", &frames).await;
    assert_eq!(storage.size("frames/public/large").await.unwrap(), Some(length));
    let wanted = frames.iter().flat_map(|frame| frame.bytes.clone()).collect::<Vec<u8>>();
    assert!(storage.read_frames(&ingredients).await.unwrap() == wanted);
    assert!(storage.read_frames(&ingredients[4..6]).await.unwrap()[..1000] == frames[4].bytes[..1000]);
    assert_eq!(storage.index("frames/public/large", length).await.unwrap().unwrap().len(), 14);
    streams(storage, &frames, &ingredients, length).await;

    // Cut off: by whoever writes it, and by what becomes of a service. What is left goes when its object is deleted.
    cut(storage, "frames/public/given-up", &frames).await.abort().await;
    std::mem::forget(cut(storage, "frames/public/killed", &frames).await);
    for key in ["frames/public/given-up", "frames/public/killed"] {
        assert_eq!(storage.size(key).await.unwrap(), None, "{key}");
    }
    storage.delete("frames/public/large").await.unwrap();
}

/// What is read piece by piece: frames that lie together, with some left out, and there and back.
async fn streams(storage: &Storage, frames: &[Frame], ingredients: &[Ingredient], length: u64) {
    let behind_the_end = {
        let (mut chunk, hashes) = ingredients[13].clone();
        chunk.frame_offset = length - 10;
        (chunk, hashes)
    };
    let orders: [&[usize]; 5] = [
        &[],
        &[3],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
        &[1, 2, 4, 5, 6, 8, 9],
        &[9, 0, 1, 2, 3, 4, 4, 13, 2],
    ];
    for order in orders {
        let recipe: Vec<Ingredient> = order.iter().map(|number| ingredients[*number].clone()).collect();
        let (mut bytes, mut next) = (Vec::new(), 0);
        let mut pieces = storage.stream(recipe.into());
        while let Some(piece) = pieces.next().await {
            assert_eq!(piece.frames.start, next);
            next = piece.frames.end;
            bytes.extend(piece.bytes.unwrap());
        }
        assert_eq!(next, order.len());
        assert!(bytes == order.iter().flat_map(|number| frames[*number].bytes.clone()).collect::<Vec<u8>>());
    }
    // What cannot be read is not left out, and what follows comes.
    let recipe: Vec<Ingredient> =
        ingredients[..6].iter().chain([&behind_the_end]).chain(&ingredients[7..]).cloned().collect();
    let pieces: Vec<Piece> = storage.stream(recipe.into()).collect().await;
    assert_eq!(
        pieces.iter().flat_map(|piece| piece.frames.clone()).collect::<Vec<_>>(),
        Vec::from_iter(0..14)
    );
    for piece in pieces {
        match piece.bytes {
            Ok(bytes) => assert!(
                bytes == piece.frames.flat_map(|number| frames[number].bytes.clone()).collect::<Vec<u8>>()
            ),
            Err(error) => {
                assert!(error.is_lost() && piece.frames.contains(&6), "{:?}: {error}", piece.frames)
            }
        }
    }
}

/// Writes most of a large object.
async fn cut(storage: &Storage, key: &str, frames: &[Frame]) -> ObjectWriter {
    let mut writer = storage.write(key).await.unwrap();
    for frame in &frames[..6] {
        writer.write([frame.entry.clone()], Bytes::from(frame.bytes.clone()).into()).await.unwrap();
    }
    writer
}

#[tokio::test]
async fn files_are_storage() {
    let dir = TempDir::new().unwrap();
    let storage = Storage::open_folder(dir.path()).unwrap();
    conforms(&storage).await;
    takes_large_objects(&storage).await;
    storage.delete("frames/public/killed").await.unwrap();
    let files: Vec<_> = std::fs::read_dir(dir.path().join("frames/public")).unwrap().collect();
    assert_eq!(files.len(), 1, "one object is left, and no part of another: {files:?}");
}

#[tokio::test]
async fn memory_is_storage() {
    let storage = Storage::of(InMemory::new(), "memory");
    conforms(&storage).await;
    takes_large_objects(&storage).await;
}

#[tokio::test]
async fn a_bucket_is_storage() {
    let bucket = Bucket::start().await;
    let storage = Storage::open_bucket(&bucket.config()).unwrap();
    conforms(&storage).await;
    takes_large_objects(&storage).await;
    // Whoever was killed sends nothing any more: what it had sent is there.
    while !bucket.has_parts().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    storage.delete("frames/public/killed").await.unwrap();
    assert!(!bucket.has_parts().await);
    let left = bucket.objects().sizes().await;
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_bucket_with_a_host_of_its_own_is_storage() {
    let bucket = Bucket::start().await;
    let storage = Storage::open_bucket(&bucket.config_of_host()).unwrap();
    conforms(&storage).await;
    // Garage notes none: that it understands is enough.
    let asked = if garage::program().is_none() { bucket.take_requests() } else { Vec::new() };
    assert!(!asked.iter().any(|request| request.contains("/objects")), "no bucket in a path: {asked:?}");
    let left = bucket.objects().sizes().await;
    assert_eq!(left.len(), 1, "{left:?}");
}
