//! Whatever bytes come: no panic, no verdict that depends on the pieces, and nothing is read that would be
//! written in another way. Mutations of what is valid, the same ones in each run. `fuzz/` looks further.

use larder_protocol::{
    ChunkId, NarHash, StorePath,
    chunk::{FrameDecoder, FrameEncoder, HOLE, fill_holes},
    nar::{NarChecker, NarError, dump},
    narinfo::NarInfo,
    recipe::{self, Recipe, RecipeChunk},
    upload::{FrameEntry, decode_index, encode_index},
};

use crate::{bytes::Random, trees};

const ROUNDS: usize = 20_000;

/// Changes a few bytes, or cuts, doubles or moves a run of them.
fn mutate(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(3) {
        if out.is_empty() {
            break;
        }
        let start = random.below(out.len());
        let end = (start + 1 + random.below(16)).min(out.len());
        match random.below(6) {
            0 => out[start] ^= 1 << random.below(8),
            1 => out[start] = [0, 1, 0x7f, 0xff, b'/', b'.'][random.below(6)],
            2 => out.truncate(start),
            3 => drop(out.drain(start..end)),
            4 => out
                .splice(start..start, bytes[start.min(bytes.len())..end.min(bytes.len())].to_vec())
                .for_each(drop),
            _ => {
                let more = random.below(12);
                let more = random.bytes(more);
                out.splice(start..start, more).for_each(drop);
            }
        }
    }
    out
}

fn check_nar(pieces: &mut dyn Iterator<Item = &[u8]>) -> Result<(), NarError> {
    let mut checker = NarChecker::default();
    for piece in pieces {
        checker.feed(piece)?;
    }
    checker.finish()
}

#[test]
fn nars() {
    let scratch = tempfile::tempdir().unwrap();
    trees::make_tree(scratch.path());
    let mut nar = Vec::new();
    dump(scratch.path(), |bytes| {
        nar.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    let mut random = Random(11);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let mutated = mutate(&mut random, &nar);
        let verdict = check_nar(&mut std::iter::once(&mutated[..]));
        let len = 1 + random.below(40);
        assert_eq!(check_nar(&mut mutated.chunks(len)), verdict);
        if let Err(error) = &verdict {
            assert!(error.offset <= mutated.len() as u64);
        }
        *if verdict.is_ok() { &mut accepted } else { &mut refused } += 1;
    }
    // A bit of a file's contents or a name's letter may change.
    assert!(accepted > 0 && refused > ROUNDS / 2, "{accepted} accepted, {refused} refused");
}

#[test]
fn frames() {
    let mut random = Random(12);
    let mut content = b"Some text, a hole, and some text again. ".repeat(20);
    content[40..40 + HOLE].fill(0);
    content[300..300 + HOLE].fill(0);
    let holes = [40, 300];
    let id = ChunkId::of(&content, holes);
    let frame = FrameEncoder::default().encode(&content, &holes);
    let entry = FrameEntry::of(id, content.len(), &frame).unwrap();
    let mut decoder = FrameDecoder::default();
    let mut refused = 0;
    for _ in 0..ROUNDS {
        let mut mutated = mutate(&mut random, &frame.bytes);
        let mut entry = entry.clone();
        entry.frame_len = u32::try_from(mutated.len()).unwrap();
        match random.below(10) {
            0 => entry.content_len ^= 1 << random.below(20),
            1 => entry.holes[random.below(2)].content_offset ^= 1 << random.below(32),
            2 => entry.holes[random.below(2)].frame_offset ^= 1 << random.below(32),
            3 => drop(entry.holes.remove(random.below(2))),
            _ => {}
        }
        if decoder.check(&entry, &mutated).is_err() {
            refused += 1;
            continue;
        }
        // What passes decodes to the chunk, with any hashes in its holes and in them alone.
        let hashes = [random.hash(), random.hash()];
        fill_holes(&mut mutated, entry.holes.iter().map(|hole| hole.frame_offset), &hashes).unwrap();
        let mut expected = content.clone();
        for (hole, hash) in holes.iter().zip(&hashes) {
            expected[*hole as usize..*hole as usize + HOLE].copy_from_slice(&hash.digits());
        }
        assert_eq!(decoder.decode(&mutated, entry.content_len).unwrap(), expected);
    }
    assert!(refused > ROUNDS / 2, "{refused} refused");
}

#[test]
fn indexes_and_recipes() {
    let mut random = Random(13);
    let hash = random.hash();
    let chunks = vec![RecipeChunk { id: ChunkId([1; 32]), hashes: vec![hash; 2] }; 3];
    let recipes = recipe::encode(&[Recipe { nar_hash: NarHash([2; 32]), nar_size: 1000, chunks }]);
    let frame = FrameEncoder::default().encode(&[0; 64], &[0, 32]);
    let entry = FrameEntry::of(ChunkId([3; 32]), 64, &frame).unwrap();
    let index = encode_index(&vec![entry; 3]);
    for _ in 0..ROUNDS {
        let mutated = mutate(&mut random, &index);
        if let Ok(Some((entries, end))) = decode_index(&mutated) {
            assert_eq!(encode_index(&entries), mutated[..end]);
        }
        let mutated = mutate(&mut random, &recipes);
        if let Ok(recipes) = recipe::decode(&mutated) {
            assert_eq!(recipe::encode(&recipes), mutated);
        }
    }
}

#[test]
fn narinfos_and_store_paths() {
    let mut random = Random(14);
    let path = StorePath::new(random.hash(), "a-name_1.0+x?y=z").unwrap();
    let narinfo = format!(
        "StorePath: {0}\nURL: nar/x.nar.zst\nCompression: zstd\nNarHash: {1}\nNarSize: 100\nReferences: {2} {2}\nDeriver: {2}\nCA: text:x\n",
        path.absolute(),
        NarHash([5; 32]),
        path
    );
    let absolute = path.absolute();
    for _ in 0..ROUNDS {
        if let Ok(mutated) = String::from_utf8(mutate(&mut random, narinfo.as_bytes()))
            && let Ok(info) = NarInfo::parse(&mutated)
        {
            assert_eq!(NarInfo::parse(&info.to_string()).unwrap(), info);
        }
        if let Ok(mutated) = String::from_utf8(mutate(&mut random, absolute.as_bytes()))
            && let Ok(path) = StorePath::from_absolute(&mutated)
        {
            assert_eq!(path.absolute(), mutated);
        }
    }
}
