//! What a push brings is read back, whole and little by little.

use larder_protocol::{
    StorePathHash,
    api::{CommittedPush, is_missing},
};

use crate::{
    nar::{TestNar, contents, decompress, path},
    world::World,
};

#[tokio::test]
async fn what_is_pushed_is_read_back() {
    let world = World::new().await;
    let library = TestNar::new(path(1, "library"), &contents(1, 700_000, &[]), &[]);
    let library_path = library.info.path.clone();
    let program = TestNar::new(path(2, "program"), &contents(2, 900_000, &[&library_path]), &[&library_path]);

    let opened = world.open(&[&program, &library]).await;
    assert_eq!(opened.missing.len(), 2);
    assert!(opened.committed.is_none());

    let asked: Vec<u8> = program.chunks.iter().flat_map(|chunk| chunk.id.0).collect();
    let question = format!("/{}/missing-chunks", opened.push);
    let bits = world.post(&question, asked.clone()).await.bytes().await.unwrap();
    assert!((0..program.chunks.len()).all(|position| is_missing(&bits, position) == Some(true)));

    let stored = world.upload(&opened, &program.chunks).await;
    assert_eq!(stored.stored, program.chunks.len() as u64);
    assert_eq!(world.upload(&opened, &program.chunks).await.present, program.chunks.len() as u64);
    let bits = world.post(&question, asked).await.bytes().await.unwrap();
    assert!((0..program.chunks.len()).all(|position| is_missing(&bits, position) == Some(false)));

    let rejected = world.send_recipes(&opened, &[&library]).await.rejected;
    assert_eq!(rejected[0].missing_chunks.len(), library.chunks.len());
    let unfinished = world.commit(&opened).await;
    assert_eq!(unfinished.status(), 422);

    world.upload(&opened, &library.chunks).await;
    let answer = world.send_recipes(&opened, &[&library, &program]).await;
    assert_eq!((answer.verified.len(), answer.rejected.len()), (2, 0));
    assert_eq!(world.narinfo(&program).await, None, "nothing is visible before the commit");

    let committed: CommittedPush = world.commit(&opened).await.json().await.unwrap();
    assert_eq!(committed.published, 2);
    let again: CommittedPush = world.commit(&opened).await.json().await.unwrap();
    assert_eq!(again, committed, "a commit can be repeated");

    for nar in [&library, &program] {
        let narinfo = world.narinfo(nar).await.unwrap();
        assert_eq!(narinfo.references, nar.info.references);
        assert_eq!(narinfo.signatures, committed.signatures[&nar.info.path]);
        let key = world.service.caches.named("main").unwrap().public_keys().remove(0);
        assert!(key.verifies(&narinfo.fingerprint(), &narinfo.signatures[0]));

        let answer = world.get(&narinfo.url).await;
        assert_eq!(answer.headers()["accept-ranges"], "bytes");
        let etag = answer.headers()["etag"].clone();
        assert_eq!(answer.content_length(), narinfo.file_size);
        let whole = answer.bytes().await.unwrap();
        assert_eq!(decompress(&whole), nar.bytes);

        let url = format!("{}/main/{}", world.url, narinfo.url);
        for start in [0, 1, 17, 70_000, whole.len() - 1] {
            let answer =
                world.client.get(&url).header("range", format!("bytes={start}-")).send().await.unwrap();
            assert_eq!(answer.status(), 206);
            assert_eq!(answer.headers()["etag"], etag);
            assert_eq!(answer.bytes().await.unwrap(), whole[start..]);
        }
        let some = world.client.get(&url).header("range", "bytes=99990-100010").send().await.unwrap();
        assert_eq!(some.headers()["content-range"], format!("bytes 99990-100010/{}", whole.len()).as_str());
        assert_eq!(some.bytes().await.unwrap(), whole[99_990..100_011]);
        let beyond = format!("bytes={}-", whole.len());
        let beyond = world.client.get(&url).header("range", beyond).send().await.unwrap();
        assert_eq!(beyond.status(), 416);
        let head = world.client.head(&url).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], whole.len().to_string().as_str());

        let other = StorePathHash([7; 20]);
        let url = format!("{}/main/nar/{}-{other}.nar.zst", world.url, nar.info.nar_hash.base32());
        let answer = world.client.get(&url).send().await.unwrap();
        assert!(answer.headers().get("accept-ranges").is_none());
        assert_eq!(answer.bytes().await.unwrap(), whole);
        let range = world.client.get(&url).header("range", "bytes=5-").send().await.unwrap();
        assert_eq!(range.status(), 404, "a range of other bytes must not be added to");
    }
    world.end().await;
}

#[tokio::test]
async fn a_rebuild_with_new_store_hashes_sends_no_chunk() {
    let world = World::new().await;
    let (old, new) = (path(1, "library"), path(9, "library"));
    let first = TestNar::new(path(2, "program"), &contents(3, 2_000_000, &[&old]), &[&old]);
    let second = TestNar::new(path(3, "program"), &contents(3, 2_000_000, &[&new]), &[&new]);
    let libraries = [old, new].map(|path| TestNar::new(path, b"library", &[]));
    world.push(&[&first, &libraries[0]]).await;

    let opened = world.open(&[&second, &libraries[1]]).await;
    assert_eq!(opened.missing, [second.info.path.hash()]);
    assert_eq!(opened.reused, [libraries[1].info.path.hash()]);
    assert!(world.send_recipes(&opened, &[&second]).await.rejected.is_empty());
    assert_eq!(world.commit(&opened).await.status(), 200);
    let url = world.narinfo(&second).await.unwrap().url;
    assert_eq!(decompress(&world.get(&url).await.bytes().await.unwrap()), second.bytes);
    world.end().await;
}

#[tokio::test]
async fn what_is_there_takes_one_round_trip() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    world.push(&[&nar]).await;
    let opened = world.open(&[&nar]).await;
    assert_eq!(opened.present, [nar.info.path.hash()]);
    assert!(opened.committed.is_some());
    world.end().await;
}
