//! NARs that are not what they are said to be, and NARs that are unusual and right.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;

use larder_protocol::{
    ChunkId, NarHash, StorePathHash,
    api::{ErrorCode, OpenPush},
    chunk::FrameEncoder,
    recipe::{self, Recipe, RecipeChunk},
};
use larder_tests::{
    client::Client,
    nix::{Nix, ScratchStore},
    package::{Node, Package, noise, store_path, text, upload_body},
    world::{Scene, World},
};
use serde_json::json;

/// Brings a NAR, which must be refused for this reason, and must not become visible.
async fn assert_rejected(world: &World, client: &Client, package: &Package, why: &str) {
    let opened = client.open(&[package]).await.unwrap();
    let answer = client.send(opened.push, &[package]).await.unwrap();
    assert!(answer.verified.is_empty(), "{why}: it was taken");
    let [rejected] = &answer.rejected[..] else { panic!("{why}: {answer:?}") };
    assert_eq!(rejected.nar_hash, package.info.nar_hash);
    assert!(rejected.reason.contains(why), "{why:?} is not in {:?}", rejected.reason);
    let refusal = client.commit(opened.push).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Invalid, "{}", refusal.answer.message);
    assert!(world.narinfo(&package.info.path).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_with_another_hash_or_size() {
    let world = World::new().await;
    let client = world.client().await;
    let mut other_hash = Package::noise("tool", 300_000);
    other_hash.info.nar_hash = NarHash([7; 32]);
    assert_rejected(&world, &client, &other_hash, "SHA-256").await;
    for difference in [-8, 8] {
        let mut other_size = Package::noise("tool", 300_000);
        other_size.info.nar_size = other_size.info.nar_size.wrapping_add_signed(difference);
        assert_rejected(&world, &client, &other_size, "").await;
    }
}

/// The texts of a NAR, one behind the other.
fn nar(texts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    texts.iter().for_each(|one| text(&mut out, one));
    out
}

fn directory(names: &[&[u8]]) -> Vec<u8> {
    Node::Directory(names.iter().map(|name| (name.to_vec(), Node::File(b"x".to_vec()))).collect()).nar()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_whose_structure_is_wrong() {
    let world = World::new().await;
    let client = world.client().await;
    let file = Node::File(b"hello".to_vec()).nar();
    let mut padded = file.clone();
    *padded.iter_mut().rev().nth(16).unwrap() = 1; // the padding of "hello"
    let mut long = file.clone();
    let length = long.len() - 32; // of the contents
    assert_eq!(long[length..length + 8], 5u64.to_le_bytes());
    long[length..length + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut very_deep = nar(&[b"nix-archive-1"]);
    for _ in 0..20_000 {
        for one in [&b"("[..], b"type", b"directory", b"entry", b"(", b"name", b"d", b"node"] {
            text(&mut very_deep, one);
        }
    }
    for (what, bytes) in [
        ("empty", vec![0; 8]),
        ("another magic", nar(&[b"nix-archive-2", b"(", b"type", b"regular", b")"])),
        ("no type", nar(&[b"nix-archive-1", b"(", b")"])),
        ("an unknown type", nar(&[b"nix-archive-1", b"(", b"type", b"socket", b")"])),
        ("no end", file[..file.len() - 16].to_vec()),
        ("something behind the end", [&file[..], &[0; 8]].concat()),
        ("two of them", [&file[..], &file].concat()),
        ("padding that is not zero", padded),
        ("a length beyond all", long),
        ("a directory that never ends", very_deep),
        ("entries out of order", directory(&[b"b", b"a"])),
        ("one entry twice", directory(&[b"a", b"a"])),
        ("a name that leads up", directory(&[b".."])),
        ("a name that leads nowhere", directory(&[b"."])),
        ("a name with a slash", directory(&[b"a/b"])),
        ("an absolute name", directory(&[b"/etc/passwd"])),
        ("a name with a NUL", directory(&[b"a\0b"])),
        ("no name", directory(&[b""])),
        ("a name beyond all file systems", directory(&[&[b'n'; 5000]])),
        (
            "executable by something",
            nar(&[b"nix-archive-1", b"(", b"type", b"regular", b"executable", b"x", b"contents", b"", b")"]),
        ),
        ("a link without target", nar(&[b"nix-archive-1", b"(", b"type", b"symlink", b")"])),
        ("a link with a NUL", Node::Link(b"a\0b".to_vec()).nar()),
    ] {
        let package = Package::with_nar(store_path("bad"), bytes);
        let opened = client.open(&[&package]).await.unwrap();
        let answer = client.send(opened.push, &[&package]).await.unwrap();
        assert!(answer.verified.is_empty(), "{what} was taken");
        assert!(answer.rejected[0].reason.contains("NAR"), "{what}: {}", answer.rejected[0].reason);
        client.commit(opened.push).await.unwrap_err();
        assert!(world.narinfo(&package.info.path).await.is_none(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_that_is_unusual_and_right_is_read_by_nix() {
    let world = World::new().await;
    let client = world.client().await;
    let deep = (0..900).fold(Node::File(b"ground".to_vec()), |below, _| Node::directory([("d", below)]));
    let many = Node::directory((0..2000).map(|n| (format!("f{n:04}"), Node::File(Vec::new()))));
    let packages = [
        Package::new("empty-file", &Node::File(Vec::new())),
        Package::new("a-program", &Node::Program(b"#!/bin/sh\n".to_vec())),
        Package::new("a-link", &Node::Link(b"../../nowhere".to_vec())),
        Package::new("empty-directory", &Node::Directory(Vec::new())),
        Package::new("deep", &deep),
        Package::new("many", &many),
        Package::new(
            "names",
            &Node::directory([
                (b"\xff\xfe not UTF-8".to_vec(), Node::File(b"1".to_vec())),
                (b"a\nb".to_vec(), Node::File(b"2".to_vec())),
                (b"...".to_vec(), Node::File(b"3".to_vec())),
                (b" ".to_vec(), Node::Program(Vec::new())),
                (b"-rf".to_vec(), Node::Link(vec![b't'; 4000])),
                (vec![b'n'; 255], Node::Directory(Vec::new())),
                (b"Case".to_vec(), Node::File(b"4".to_vec())),
                (b"case".to_vec(), Node::File(b"5".to_vec())),
            ]),
        ),
        Package::new(
            "lengths",
            &Node::directory((0..17).map(|n| (format!("{n:02}"), Node::File(vec![1; n])))),
        ),
    ];
    client.push(&packages.iter().collect::<Vec<_>>()).await.unwrap();

    let paths: Vec<PathBuf> = packages.iter().map(|package| package.info.path.absolute().into()).collect();
    let store = ScratchStore::new(Nix::Installed);
    store.copy_from(&world.reader().await, &paths).await.expect_success();
    store.verify().await;
    let deepest = store.real_path(&paths[4]).join("d/".repeat(900));
    assert_eq!(std::fs::read(deepest.to_str().unwrap().trim_end_matches('/')).unwrap(), b"ground");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_names_a_chunk_nobody_has() {
    let world = World::new().await;
    let client = world.client().await;
    let package = Package::noise("tool", 600_000);
    let opened = client.open(&[&package]).await.unwrap();
    let (recipe, frames) = package.cut();
    client.upload(opened.push, upload_body(&frames[1..])).await.unwrap();
    let answer = client.recipes(opened.push, recipe::encode(std::slice::from_ref(&recipe))).await.unwrap();
    assert_eq!(answer.rejected[0].missing_chunks, [frames[0].entry.id]);
    // What was missing comes, and the same recipe holds.
    client.upload(opened.push, upload_body(&frames[..1])).await.unwrap();
    let answer = client.recipes(opened.push, recipe::encode(&[recipe])).await.unwrap();
    assert_eq!(answer.verified, [package.info.nar_hash]);
    client.commit(opened.push).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_cannot_be() {
    let world = World::new().await;
    let client = world.client().await;
    let package = Package::noise("tool", 300_000);
    let opened = client.open(&[&package]).await.unwrap();
    let (recipe, frames) = package.cut();
    client.upload(opened.push, upload_body(&frames)).await.unwrap();
    let rejected = async |recipe: Recipe, why: &str| {
        let answer = client.recipes(opened.push, recipe::encode(&[recipe])).await.unwrap();
        assert!(answer.verified.is_empty(), "{why}");
        assert!(answer.rejected[0].reason.contains(why), "{why:?} is not in {:?}", answer.rejected[0].reason);
    };
    rejected(Recipe { nar_hash: NarHash([9; 32]), ..recipe.clone() }, "no path of this push").await;
    rejected(Recipe { nar_size: recipe.nar_size + 8, ..recipe.clone() }, "").await;
    rejected(Recipe { chunks: Vec::new(), ..recipe.clone() }, "").await;
    rejected(Recipe { chunks: recipe.chunks[1..].to_vec(), ..recipe.clone() }, "").await;
    let mut reordered = recipe.clone();
    reordered.chunks.reverse();
    rejected(reordered, "").await;
    // As many of one as a recipe may have, and then more hashes than there are holes.
    let repeated = vec![recipe.chunks[0].clone(); 1024];
    rejected(Recipe { chunks: repeated, ..recipe.clone() }, "").await;
    let mut filled = recipe.clone();
    filled.chunks[0].hashes.push(StorePathHash([1; 20]));
    rejected(filled, "hole").await;

    let million = vec![recipe.chunks[0].clone(); 1_000_000];
    let many = recipe::encode(&[Recipe { chunks: million, ..recipe.clone() }]);
    let good = recipe::encode(std::slice::from_ref(&recipe));
    let cut = good[..good.len() - 1].to_vec();
    for body in [many, cut, [&good[..], b"x"].concat(), Vec::new(), noise(1000)] {
        let refusal = client.recipes(opened.push, body).await.unwrap_err();
        assert!(matches!(refusal.status.as_u16(), 400 | 413), "{}", refusal.answer.message);
    }
    // After all that the true one still holds.
    assert_eq!(client.recipes(opened.push, good).await.unwrap().verified, [package.info.nar_hash]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_is_large_by_repeating_one_chunk_costs_no_more_than_its_nar() {
    let world = World::new().await;
    let client = world.client().await;
    // One chunk of a MiB, 1,024 times: a GiB that the sizes say cannot be.
    let content = vec![0; 1 << 20];
    let encoded = FrameEncoder::default().encode(&content, &[]);
    let frame = larder_tests::package::Frame::of_content(&content, encoded.bytes);
    let package = Package::noise("tool", 1000);
    let opened = client.open(&[&package]).await.unwrap();
    client.upload(opened.push, upload_body([&frame])).await.unwrap();
    let chunk = RecipeChunk { id: ChunkId::of(&content, []), hashes: Vec::new() };
    let recipe = Recipe {
        chunks: vec![chunk; 1024],
        nar_hash: package.info.nar_hash,
        nar_size: package.info.nar_size,
    };
    let answer = client.recipes(opened.push, recipe::encode(&[recipe])).await.unwrap();
    assert!(answer.verified.is_empty());
    assert!(answer.rejected[0].reason.contains("not 1112"), "{}", answer.rejected[0].reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn closures_that_cannot_be_are_refused_when_a_push_opens() {
    let limits = "[limits]\nmax_nar_size = \"2 MiB\"\nmax_push_bytes = \"3 MiB\"\n".to_owned();
    let world = World::with(Scene { limits, ..Scene::default() }).await;
    let client = world.client().await;
    let package = Package::noise("tool", 1000);
    let good = json!({
        "path": package.info.path, "nar_hash": package.info.nar_hash, "nar_size": package.info.nar_size,
        "references": [],
    });
    let hash = package.info.path.hash();
    let with = |key: &str, value: serde_json::Value| {
        let mut info = good.clone();
        info[key] = value;
        json!({ "paths": [info], "roots": [] })
    };
    let names = ["..", "../../etc/passwd", "a/b", "a\0b", "", ".", ".-x", "über", "a b", &"n".repeat(212)];
    let bad_names = names.iter().map(|name| with("path", json!(format!("{hash}-{name}"))));
    let more = [
        json!({}),
        json!({ "paths": [], "roots": [] }),
        json!({ "paths": [good, good], "roots": [] }),
        json!({ "paths": [good], "roots": [store_path("absent")] }),
        with("path", json!("/etc/passwd")),
        with("path", json!(format!("/nix/store/{hash}-tool/bin"))),
        with("path", json!(format!("{}-tool", "e".repeat(32)))),
        with("nar_hash", json!("sha256:zz")),
        with("nar_hash", json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
        with("nar_size", json!(0)),
        with("nar_size", json!(-1)),
        with("nar_size", json!(3 << 20)),
        with("nar_size", json!("1000")),
        with("references", json!([store_path("b"), "../x"])),
        with("references", json!(["z", "a"])),
        with("deriver", json!("no-path")),
        with("ca", json!("fixed:r:sha256:x\nSig: forged:AAAA")),
        with("signatures", json!(["no signature"])),
    ];
    for body in bad_names.chain(more) {
        let refusal = client.open_with(body.to_string()).await.map(|_| ()).expect_err(&body.to_string());
        assert!(matches!(refusal.status.as_u16(), 400 | 422), "{body}: {}", refusal.answer.message);
    }
    for body in ["", "{", "[]", "null", "\u{0}"] {
        let refusal = client.open_with(body.to_owned()).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::BadRequest, "{}", refusal.answer.message);
    }
    // Each NAR fits, all together do not.
    let large: Vec<Package> = (0..3).map(|_| Package::noise("large", 1_500_000)).collect();
    let refusal = client.open(&large.iter().collect::<Vec<_>>()).await.unwrap_err();
    assert_eq!(refusal.answer.error, ErrorCode::Invalid);

    let paths = vec![package.info.clone()];
    client
        .open_push(&OpenPush { roots: vec![package.info.path.clone()], paths, ..OpenPush::default() })
        .await
        .unwrap();
}
