//! Fills a service with many small paths of many tiny chunks, through its API, so that sweeping and verifying a large
//! store can be measured (`bench/run --only retention`). Half of the closures are pinned; their paths are printed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot go on ends, and says why")]

use std::io::Write as _;

use clap::Parser;
use larder_protocol::{
    ChunkId, StorePath,
    api::{OpenPush, PathInfo, PinRequest},
    chunk::FrameEncoder,
    recipe::{self, Recipe, RecipeChunk},
    upload::FrameEntry,
};
use larder_tests::{
    client::Client,
    package::{Frame, Node, Package, noise, store_path, upload_body},
};

/// A closure is a chain of so many paths.
const CHAIN: usize = 100;
/// So many paths come with one push: their chunks are named in one body of frames.
const PUSH: usize = 1000;
/// What a chunk holds.
const CHUNK: usize = 64;

/// Fills a service with many small paths of many tiny chunks.
#[derive(Parser)]
struct Arguments {
    /// The service's URL.
    #[arg(long)]
    service: String,
    /// The cache.
    #[arg(long, default_value = "main")]
    cache: String,
    /// A token that permits to push and to pin.
    #[arg(long)]
    token: String,
    /// How many paths.
    #[arg(long, default_value_t = 100_000)]
    paths: usize,
    /// How many chunks each has.
    #[arg(long, default_value_t = 50)]
    chunks: usize,
}

/// A path, cut into chunks that nothing else has.
fn package(below: Option<&StorePath>, chunks: usize) -> (PathInfo, Recipe, Vec<Frame>) {
    let nar = Node::File(noise(chunks * CHUNK)).nar();
    let Package { mut info, nar } = Package::with_nar(store_path("small"), nar);
    info.references.extend(below.cloned());
    let mut encoder = FrameEncoder::default();
    let frames: Vec<Frame> = nar
        .chunks(nar.len().div_ceil(chunks))
        .map(|content| {
            let encoded = encoder.encode(content, &[]);
            let entry = FrameEntry::of(ChunkId::of(content, []), content.len(), &encoded).unwrap();
            Frame { entry, bytes: encoded.bytes }
        })
        .collect();
    let chunks = frames.iter().map(|frame| RecipeChunk { id: frame.entry.id, hashes: Vec::new() }).collect();
    let recipe = Recipe { nar_hash: info.nar_hash, nar_size: info.nar_size, chunks };
    (info, recipe, frames)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let client = Client::with_token(&arguments.service, &arguments.cache, &arguments.token);
    let mut stdout = std::io::stdout().lock();
    for push in 0..arguments.paths.div_ceil(PUSH) {
        let (mut open, mut recipes, mut frames) = (OpenPush::default(), Vec::new(), Vec::new());
        for number in 0..PUSH {
            let below = open.paths.last().map(|info: &PathInfo| &info.path);
            let below = below.filter(|_| !number.is_multiple_of(CHAIN));
            let (info, recipe, its) = package(below, arguments.chunks);
            if number % CHAIN == CHAIN - 1 {
                open.roots.push(info.path.clone());
            }
            open.paths.push(info);
            recipes.push(recipe);
            frames.extend(its);
        }
        let opened = client.open_push(&open).await.expect("the push is opened");
        client.upload(opened.push, upload_body(&frames)).await.expect("the frames are taken");
        let answer = client.recipes(opened.push, recipe::encode(&recipes)).await.expect("recipes are taken");
        assert!(answer.rejected.is_empty(), "{:?}", answer.rejected);
        client.commit(opened.push).await.expect("the push is committed");
        for (number, root) in open.roots.iter().enumerate().filter(|(number, _)| number.is_multiple_of(2)) {
            let request = PinRequest { path: root.clone(), lifetime: None, keep: 1 };
            client.pin(&format!("keep-{push}-{number}"), &request).await.expect("the path is pinned");
            for info in &open.paths[number * CHAIN..(number + 1) * CHAIN] {
                writeln!(stdout, "{}", info.path.absolute())?;
            }
        }
    }
    Ok(())
}
