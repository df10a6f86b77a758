//! Cutting a stream into chunks, and putting it together again.

use std::convert::Infallible;

use crate::bytes::Random;
use larder_protocol::{
    ChunkId, StorePathHash,
    base32::is_digit,
    chunk::{
        CutChunk, Cutter, FrameDecoder, FrameEncoder, HOLE, MAX_CHUNK, MAX_CUT, MEAN_CUT, MIN_CUT,
        fill_holes, max_holes_cut,
    },
    upload::FrameEntry,
};

fn cut_in_pieces(known: &[StorePathHash], bytes: &[u8], len: usize) -> Vec<CutChunk> {
    let mut chunks = Vec::new();
    let mut take = |chunk| {
        chunks.push(chunk);
        Ok::<_, Infallible>(())
    };
    let mut cutter = Cutter::new(known.iter().copied());
    for piece in bytes.chunks(len) {
        cutter.feed(piece, &mut take).unwrap();
    }
    cutter.finish(&mut take).unwrap();
    chunks
}

fn cut(known: &[StorePathHash], bytes: &[u8]) -> Vec<CutChunk> {
    cut_in_pieces(known, bytes, 256 << 10)
}

/// One chunk a line: its name, its length, its holes.
fn describe(chunks: &[CutChunk]) -> String {
    chunks.iter().map(|chunk| format!("{} {} {:?}\n", chunk.id, chunk.content.len(), chunk.holes)).collect()
}

/// What the chunks say that they hold, as a reader gets it.
fn put_together(chunks: &[CutChunk]) -> Vec<u8> {
    let (mut encoder, mut decoder) = (FrameEncoder::default(), FrameDecoder::default());
    let mut out = Vec::new();
    for chunk in chunks {
        let mut frame = encoder.encode(&chunk.content, &chunk.holes);
        let entry = FrameEntry::of(chunk.id, chunk.content.len(), &frame).unwrap();
        decoder.check(&entry, &frame.bytes).unwrap();
        fill_holes(&mut frame.bytes, frame.holes.iter().map(|hole| hole.frame_offset), &chunk.hashes)
            .unwrap();
        out.extend_from_slice(decoder.decode(&frame.bytes, entry.content_len).unwrap());
    }
    out
}

/// The rules once more, as plainly as can be: every position is looked at, all bytes are there at once.
fn cut_plainly(known: &[StorePathHash], bytes: &[u8]) -> Vec<CutChunk> {
    let mut zeroed = bytes.to_vec();
    let mut found = Vec::new();
    let mut at = 0;
    while at + HOLE <= zeroed.len() {
        let window = &zeroed[at..at + HOLE];
        let hash = StorePathHash::from_digits(window)
            .filter(|hash| known.contains(hash) || zeroed[..at].ends_with(b"/nix/store/"));
        if let Some(hash) = hash {
            zeroed[at..at + HOLE].fill(0);
            found.push((at, hash));
            at += HOLE;
        } else {
            at += 1;
        }
    }
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < zeroed.len() {
        let cutter = fastcdc::v2020::FastCDC::new(&zeroed, MIN_CUT, MEAN_CUT, MAX_CUT);
        let (_, mut stop) = cutter.cut(start, zeroed.len() - start);
        if let Some((offset, _)) =
            found.iter().find(|(offset, _)| (offset + 1..offset + HOLE).contains(&stop))
        {
            stop = offset + HOLE;
        }
        let holes: Vec<_> = found.iter().filter(|(offset, _)| (start..stop).contains(offset)).collect();
        chunks.push(if holes.len() > max_holes_cut(stop - start) {
            let content = bytes[start..stop].to_vec();
            CutChunk { id: ChunkId::of(&content, []), content, holes: Vec::new(), hashes: Vec::new() }
        } else {
            let content = zeroed[start..stop].to_vec();
            let offsets: Vec<u32> =
                holes.iter().map(|(offset, _)| u32::try_from(offset - start).unwrap()).collect();
            let hashes = holes.iter().map(|(_, hash)| *hash).collect();
            CutChunk { id: ChunkId::of(&content, offsets.iter().copied()), content, holes: offsets, hashes }
        });
        start = stop;
    }
    chunks
}

#[track_caller]
fn assert_cut_rightly(known: &[StorePathHash], bytes: &[u8]) -> Vec<CutChunk> {
    let chunks = cut(known, bytes);
    assert_eq!(describe(&chunks), describe(&cut_plainly(known, bytes)));
    assert!(put_together(&chunks) == bytes, "what was cut is not what is put together");
    assert!(chunks.iter().all(|chunk| chunk.content.len() <= MAX_CHUNK));
    chunks
}

/// 3 MB with store paths and a few bare hashes in it.
fn sample(known: &mut Vec<StorePathHash>, hash_seed: u64) -> Vec<u8> {
    let (mut random, mut hashes) = (Random(1), Random(hash_seed));
    let mut bytes = Vec::new();
    while bytes.len() < 3_000_000 {
        let len = 1 + random.below(40_000);
        bytes.extend(random.bytes(len));
        let hash = hashes.hash();
        match random.below(3) {
            0 => bytes.extend_from_slice(b"/nix/store/"),
            1 => known.push(hash),
            // Somebody else's 32 digits.
            _ => {}
        }
        if bytes.ends_with(b"/nix/store/") || known.last() == Some(&hash) {
            bytes.extend_from_slice(&hash.digits());
        } else {
            bytes.extend_from_slice(&[b'0'; 32]);
        }
        bytes.extend_from_slice(b"-name");
    }
    bytes
}

/// If this fails, what is cut from now on shares nothing with what is stored. The vector was made by
/// `cut_plainly`, whose rules design.md tells; it is never to be made anew.
#[test]
fn cuts_as_it_always_did() {
    let mut known = Vec::new();
    let bytes = sample(&mut known, 2);
    let chunks = assert_cut_rightly(&known, &bytes);
    assert_eq!(describe(&chunks), include_str!("vectors/chunks.txt"));
}

#[test]
fn cuts_alike_in_whatever_pieces_the_bytes_come() {
    let mut known = Vec::new();
    let bytes = sample(&mut known, 2);
    let whole = describe(&cut(&known, &bytes));
    for len in [1, 31, 4096, 65_537, (2 << 20) - 1, bytes.len()] {
        assert_eq!(describe(&cut_in_pieces(&known, &bytes, len)), whole, "in pieces of {len}");
    }
}

#[test]
fn names_chunks_alike_that_differ_in_store_hashes_alone() {
    let (mut known, mut other_known) = (Vec::new(), Vec::new());
    let (bytes, other) = (sample(&mut known, 2), sample(&mut other_known, 3));
    assert!(bytes != other);
    let (chunks, others) = (cut(&known, &bytes), cut(&other_known, &other));
    assert_eq!(describe(&chunks), describe(&others));
    assert!(chunks.iter().any(|chunk| chunk.hashes.len() > 1));
    assert!(chunks.iter().zip(&others).all(|(one, other)| {
        one.hashes.len() == other.hashes.len() && (one.hashes.is_empty() || one.hashes != other.hashes)
    }));
}

/// Bytes in which nothing looks like a cut, so that every chunk is as large as can be.
fn monotonous(len: usize) -> Vec<u8> {
    vec![b'\n'; len]
}

#[test]
fn cuts_no_hole_in_two() {
    let mut random = Random(4);
    let hash = random.hash();
    assert!(cut(&[], &monotonous(3 << 20)).iter().all(|chunk| chunk.content.len() == MAX_CUT));
    // Before, across and behind each of the first cuts; the fourth is where the cutter's buffer ends.
    for edge in [MAX_CUT, 4 * MAX_CUT, 8 * MAX_CUT] {
        for before in 0..=HOLE + 12 {
            let mut bytes = monotonous(9 * MAX_CUT);
            let at = edge - before;
            bytes[at..at + HOLE].copy_from_slice(&hash.digits());
            let bare = cut(&[hash], &bytes);
            assert_eq!(describe(&bare), describe(&cut_plainly(&[hash], &bytes)));
            assert_eq!(bare.iter().map(|chunk| chunk.holes.len()).sum::<usize>(), 1);
            assert_eq!(cut(&[], &bytes).iter().map(|chunk| chunk.holes.len()).sum::<usize>(), 0);
            // The same hash, told by the store's directory before it, which a cut may fall into.
            let at = at + 11;
            bytes[at - 11..at].copy_from_slice(b"/nix/store/");
            bytes[at..at + HOLE].copy_from_slice(&hash.digits());
            let after_store = cut(&[], &bytes);
            assert_eq!(describe(&after_store), describe(&cut_plainly(&[], &bytes)));
            assert_eq!(after_store.iter().map(|chunk| chunk.holes.len()).sum::<usize>(), 1);
        }
    }
    let mut bytes = monotonous(2 * MAX_CUT);
    bytes[MAX_CUT - 1..MAX_CUT - 1 + HOLE].copy_from_slice(&hash.digits());
    let chunks = assert_cut_rightly(&[hash], &bytes);
    assert_eq!(chunks[0].content.len(), MAX_CUT + HOLE - 1);
    assert_eq!(chunks[0].holes, [u32::try_from(MAX_CUT - 1).unwrap()]);
}

#[test]
fn cuts_a_farm_of_symlinks_without_holes() {
    let mut random = Random(5);
    let mut bytes = Vec::new();
    while bytes.len() < 1_000_000 {
        bytes.extend_from_slice(
            format!("/nix/store/{}-package/share/icons/x.svg\n", random.hash()).as_bytes(),
        );
    }
    let chunks = assert_cut_rightly(&[], &bytes);
    assert!(chunks[0].holes.is_empty() && chunks[0].hashes.is_empty());
    assert!(chunks[0].content == bytes[..chunks[0].content.len()]);
}

#[test]
fn leaves_as_many_holes_as_it_may_and_no_more() {
    let mut random = Random(6);
    for count in [47, 48, 49] {
        let mut bytes = monotonous(32 << 10);
        for entry in bytes.chunks_mut(64).take(count) {
            entry[..11].copy_from_slice(b"/nix/store/");
            entry[11..11 + HOLE].copy_from_slice(&random.hash().digits());
        }
        let [chunk] = &assert_cut_rightly(&[], &bytes)[..] else { panic!("several chunks") };
        assert_eq!(chunk.holes.len(), if count <= max_holes_cut(bytes.len()) { count } else { 0 });
    }
}

#[test]
fn finds_hashes_among_digits() {
    let mut random = Random(7);
    let digits = |random: &mut Random, len| -> Vec<u8> {
        (0..len).map(|_| b"0123456789abcdfghijklmnpqrsvwxyz"[random.below(32)]).collect()
    };
    let known = [random.hash(), random.hash()];
    let mut bytes = Vec::new();
    for n in 0..300 {
        let len = random.below(100);
        bytes.extend(digits(&mut random, len));
        bytes.extend_from_slice(&known[n % 2].digits());
        if n % 5 == 0 {
            bytes.extend_from_slice(b"/nix/store/");
        }
    }
    assert!(bytes.iter().filter(|byte| is_digit(**byte)).count() > bytes.len() / 2);
    let chunks = assert_cut_rightly(&known, &bytes);
    assert!(chunks[0].holes.is_empty(), "a farm of hashes");
    bytes.extend(monotonous(400_000));
    assert!(assert_cut_rightly(&known, &bytes)[0].holes.len() >= 300);
}

#[test]
fn cuts_what_is_empty_or_small() {
    assert!(cut(&[], &[]).is_empty());
    let hash = Random(8).hash();
    for bytes in [&b"x"[..], &hash.digits(), &hash.digits()[..31], b"/nix/store/"] {
        assert_eq!(assert_cut_rightly(&[hash], bytes).len(), 1);
    }
}

#[test]
fn ends_with_the_error_of_who_takes_the_chunks() {
    let mut cutter = Cutter::new([]);
    assert_eq!(cutter.feed(&monotonous(5 << 20), |_| Err("full")), Err("full"));
}
