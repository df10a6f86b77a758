//! Uploads that lie. Whatever is wrong is refused, says why, and leaves nothing behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write as _;

use larder_protocol::{
    ChunkId,
    api::{ErrorCode, PushId},
    chunk::{FrameHole, MAX_CHUNK},
    upload::encode_index,
};
use larder_tests::{
    client::Client,
    package::{Frame, Package, noise, upload_body},
    world::{Scene, World},
};

/// A world in which a push is open.
async fn open_push() -> (World, Client, PushId, Package) {
    let world = World::new().await;
    let package = Package::noise("tool", 600_000);
    let client = world.client().await;
    let push = client.open(&[&package]).await.unwrap().push;
    (world, client, push, package)
}

/// Sends one frame, which must be refused for this reason, and be missing afterwards.
async fn assert_refused(client: &Client, push: PushId, frame: &Frame, why: &str) {
    let refusal = client.upload(push, upload_body([frame])).await.map(|_| ()).expect_err(why);
    let message = &refusal.answer.message;
    // 400 where the index shows it, 422 where the frame must be looked into.
    assert!(matches!(refusal.answer.error, ErrorCode::BadRequest | ErrorCode::Invalid), "{why}: {message}");
    assert!(message.contains(why), "{why:?} is not in {message:?}");
    assert_eq!(client.missing(push, &[frame.entry.id]).await.unwrap(), [true], "{why}");
}

// The format is RFC 8878's: magic number, header, blocks.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Single segment, content size in four bytes.
const PLAIN: u8 = 0b1010_0000;

/// A frame with this descriptor and what follows it.
fn frame(descriptor: u8, fields: &[u8], blocks: &[Vec<u8>]) -> Vec<u8> {
    [&MAGIC[..], &[descriptor], fields, &blocks.concat()].concat()
}

/// A frame that declares a size.
fn plain(declared: usize, blocks: &[Vec<u8>]) -> Vec<u8> {
    frame(PLAIN, &u32::try_from(declared).unwrap().to_le_bytes(), blocks)
}

fn block(last: bool, kind: u8, size: usize, bytes: &[u8]) -> Vec<u8> {
    let header = u32::from(last) | u32::from(kind) << 1 | u32::try_from(size).unwrap() << 3;
    [&header.to_le_bytes()[..3], bytes].concat()
}

fn raw(last: bool, bytes: &[u8]) -> Vec<u8> {
    block(last, 0, bytes.len(), bytes)
}

fn repeated(last: bool, byte: u8, times: usize) -> Vec<u8> {
    block(last, 1, times, &[byte])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_below_are_refused_for_what_is_wrong_with_them_alone() {
    let (_world, client, push, _) = open_push().await;
    let content = noise(1000);
    let frames = [
        Frame::of_content(&content, plain(1000, &[raw(true, &content)])),
        Frame::of_content(&[7; 1000], plain(1000, &[repeated(false, 7, 400), repeated(true, 7, 600)])),
        Frame::of_content(
            &[8; 1000],
            frame(
                0b1000_0000,
                &[[0x68].as_slice(), &1000u32.to_le_bytes()].concat(),
                &[repeated(true, 8, 1000)],
            ),
        ),
    ];
    let answer = client.upload(push, upload_body(&frames)).await.unwrap();
    assert_eq!((answer.stored, answer.present), (3, 0));
    let again = client.upload(push, upload_body(&frames)).await.unwrap();
    assert_eq!((again.stored, again.present), (0, 3));
    assert_eq!(client.upload(push, upload_body([])).await.unwrap().stored, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_name_is_wrong() {
    let (_world, client, push, _) = open_push().await;
    let content = noise(1000);
    let mut wrong = Frame::of_content(&content, plain(1000, &[raw(true, &content)]));
    wrong.entry.id = ChunkId::of(&noise(1000), []);
    assert_refused(&client, push, &wrong, "does not have the chunk's name").await;
    // The name covers where the holes are.
    wrong.entry.id = ChunkId::of(&content, [0]);
    assert_refused(&client, push, &wrong, "does not have the chunk's name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_larger_or_smaller_than_it_declares() {
    let (_world, client, push, _) = open_push().await;
    let bomb: Vec<Vec<u8>> =
        (0..1000).map(|_| repeated(false, 0, 128 << 10)).chain([repeated(true, 0, 1)]).collect();
    for (declared, blocks) in
        [(100, vec![repeated(true, 0, 101)]), (100, vec![repeated(true, 0, 99)]), (100, bomb)]
    {
        let bytes = plain(declared, &blocks);
        let refused = Frame::of_content(&vec![0; declared], bytes);
        assert_refused(&client, push, &refused, "").await;
    }
    // The index says one size and the frame another.
    let mut differs = Frame::of_content(&[1; 100], plain(100, &[repeated(true, 1, 100)]));
    differs.entry.content_len = 101;
    assert_refused(&client, push, &differs, "another content size").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_a_kind_that_is_not_stored() {
    let (_world, client, push, _) = open_push().await;
    let content = vec![5; 300];
    let size = 300u32.to_le_bytes();
    let body = [repeated(true, 5, 300)];
    let good = plain(300, &body);
    let with = |prefix: &[u8], suffix: &[u8]| [prefix, &good, suffix].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18][..], &4u32.to_le_bytes(), &[1, 2, 3, 4]].concat();
    let empty = |count: usize| {
        let blocks: Vec<_> = (0..count).map(|_| raw(false, &[])).chain([repeated(true, 5, 300)]).collect();
        plain(300, &blocks)
    };
    for (why, bytes) in [
        ("dictionary", frame(PLAIN | 1, &[&[9][..], &size].concat(), &body)),
        ("dictionary", frame(PLAIN | 3, &[&[9, 0, 0, 0][..], &size].concat(), &body)),
        ("window", frame(0b1000_0000, &[&[0b1010_1000][..], &size].concat(), &body)),
        ("does not declare", frame(0, &[0x68], &body)),
        ("checksum", frame(PLAIN | 0b100, &size, &[body[0].clone(), vec![0; 4]])),
        ("reserved", frame(PLAIN | 0b1000, &size, &body)),
        ("magic", with(&skippable, b"")),
        ("follow", with(b"", &skippable)),
        ("follow", with(b"", &good)),
        ("follow", with(b"", &[0])),
        ("empty blocks", empty(1)),
        ("empty blocks", empty(5)),
        ("ends too early", good[..good.len() - 1].to_vec()),
        ("ends too early", MAGIC[..].to_vec()),
        ("magic", Vec::new()),
        ("8878", plain(300, &[block(true, 3, 300, &content)])),
        ("longer than", with(b"", &vec![0; 1000])),
    ] {
        assert_refused(&client, push, &Frame::of_content(&content, bytes), why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_empty_or_too_large() {
    let (_world, client, push, _) = open_push().await;
    let large = vec![3; MAX_CHUNK + 1];
    let encoded = zstd::bulk::compress(&large, 3).unwrap();
    assert_refused(&client, push, &Frame::of_content(&large, encoded), "1 MiB").await;
    let nothing = frame(0b0010_0000, &[0], &[raw(true, &[])]);
    assert_refused(&client, push, &Frame::of_content(&[], nothing), "empty").await;
}

/// A chunk of text, a hole, and more text, each in a block of its own.
fn with_hole() -> Frame {
    let (before, after) = (noise(100), noise(100));
    let content = [&before[..], &[0; 32], &after].concat();
    let bytes = plain(232, &[raw(false, &before), raw(false, &[0; 32]), raw(true, &after)]);
    let mut frame = Frame::of_content(&content, bytes);
    // Magic number, descriptor and size, then two block headers.
    frame.entry.holes = vec![FrameHole { content_offset: 100, frame_offset: 9 + 3 + 100 + 3 }];
    frame.entry.id = ChunkId::of(&content, [100]);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_cannot_be_filled() {
    let (_world, client, push, _) = open_push().await;
    let good = with_hole();
    assert_eq!(client.upload(push, upload_body([&good])).await.unwrap().stored, 1);

    let hole = |content_offset, frame_offset| FrameHole { content_offset, frame_offset };
    for (why, holes) in [
        ("no raw block", vec![hole(100, 9 + 3)]),
        ("no raw block", vec![hole(100, 9 + 3 + 100 + 4)]),
        ("no raw block", vec![hole(100, 9 + 3 + 100 + 2)]),
        ("no raw block", vec![hole(100, 4_000_000_000)]),
        ("do not come out", vec![hole(99, 115)]),
        ("do not come out", vec![hole(0, 115)]),
        ("outside", vec![hole(201, 115)]),
        ("outside", vec![hole(u32::MAX - 40, 115)]),
        ("overlaps", vec![hole(100, 115), hole(100, 115)]),
        ("overlaps", vec![hole(100, 115), hole(131, 115)]),
        ("overlaps", vec![hole(100, 115), hole(10, 115)]),
    ] {
        let mut bad = with_hole();
        bad.entry.id = ChunkId::of(&noise(232), holes.iter().map(|hole| hole.content_offset));
        bad.entry.holes = holes;
        assert_refused(&client, push, &bad, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_later_bytes_refer_to() {
    let (_world, client, push, _) = open_push().await;
    // The first 32 bytes make a raw block; what follows is then said to be the same again.
    let bytes = noise(32);
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_contentsize(true).unwrap();
    encoder.set_pledged_src_size(Some(352)).unwrap();
    encoder.write_all(&bytes).unwrap();
    encoder.flush().unwrap();
    encoder.write_all(&bytes.repeat(10)).unwrap();
    let encoded = encoder.finish().unwrap();
    let at = encoded.windows(32).position(|window| window == bytes).unwrap();

    let content = [vec![0; 32], bytes.repeat(10)].concat();
    let mut bad = Frame::of_content(&content, encoded);
    bad.entry.holes = vec![FrameHole { content_offset: 0, frame_offset: u32::try_from(at).unwrap() }];
    bad.entry.id = ChunkId::of(&content, [0]);
    assert_refused(&client, push, &bad, "later bytes refer to it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_a_bad_frame_is_kept_and_what_comes_after_is_not() {
    let (_world, client, push, package) = open_push().await;
    let (_, frames) = package.cut();
    let mut body = frames[..3].to_vec();
    body[1].bytes[20] ^= 0xff;
    client.upload(push, upload_body(&body)).await.unwrap_err();
    let ids: Vec<ChunkId> = frames.iter().map(|frame| frame.entry.id).collect();
    let missing = client.missing(push, &ids).await.unwrap();
    assert!(missing[1] && missing[2], "{missing:?}");
    // The next upload sends what is missing, and all is well.
    client.upload(push, upload_body(&frames)).await.unwrap();
    assert!(!client.missing(push, &ids).await.unwrap().contains(&true));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_cut_or_go_on() {
    let (_world, client, push, _) = open_push().await;
    let frames: Vec<Frame> =
        (0..3).map(|_| noise(200)).map(|c| Frame::of_content(&c, plain(200, &[raw(true, &c)]))).collect();
    let body = upload_body(&frames);
    let index = encode_index(&frames.iter().map(|frame| frame.entry.clone()).collect::<Vec<_>>()).len();
    let first = index + frames[0].bytes.len();
    for end in [0, 1, 7, 8, 12, 50, index - 1, index, index + 1, first - 1] {
        let refusal = client.upload(push, body[..end].to_vec()).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::BadRequest, "{end}: {}", refusal.answer.message);
    }
    let ids: Vec<ChunkId> = frames.iter().map(|frame| frame.entry.id).collect();
    assert_eq!(client.missing(push, &ids).await.unwrap(), [true; 3]);

    for more in [&b"x"[..], &body] {
        let refusal = client.upload(push, [&body, more].concat()).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::BadRequest, "{}", refusal.answer.message);
    }
    for nonsense in [b"LARDERF2\0\0\0\0".to_vec(), noise(100_000), [&b"LARDERF1"[..], &[0xff; 4]].concat()] {
        let refusal = client.upload(push, nonsense).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::BadRequest, "{}", refusal.answer.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_larger_than_the_service_takes() {
    let limits = "[limits]\nmax_body = \"2 MiB\"\n".to_owned();
    let world = World::with(Scene { limits, ..Scene::default() }).await;
    let package = Package::noise("large", 5_000_000);
    let client = world.client().await;
    let opened = client.open(&[&package]).await.unwrap();
    assert_eq!(opened.max_body, 2 << 20);
    let (_, frames) = package.cut();
    let refusal = client.upload(opened.push, upload_body(&frames)).await.unwrap_err();
    assert_eq!((refusal.status.as_u16(), refusal.answer.error), (413, ErrorCode::TooLarge));
    for some in frames.chunks(8) {
        client.upload(opened.push, upload_body(some)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_a_byte_harms_the_service() {
    let (world, client, push, _) = open_push().await;
    let good = with_hole();
    let text = b"the same words again and again ".repeat(30);
    let compressed = Frame::of_content(&text, zstd::bulk::compress(&text, 3).unwrap());
    for frame in [good, compressed] {
        let body = upload_body([&frame]);
        for position in 0..body.len() {
            let mut changed = body.clone();
            changed[position] ^= 1 << (position % 8);
            if let Err(refusal) = client.upload(push, changed).await {
                assert!(refusal.status.is_client_error(), "{position}: {:?}", refusal.answer);
            }
        }
    }
    client.push(&[&Package::noise("after", 1000)]).await.unwrap();
    drop(world);
}
