//! Frames: what is made, and what is refused.

use std::io::{Read as _, Write as _};

use crate::bytes::Random;
use larder_protocol::{
    ChunkId,
    chunk::{FrameDecoder, FrameEncoder, FrameError, FrameHole, HOLE, MAX_CHUNK, fill_holes, max_frame},
    upload::FrameEntry,
};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const RAW: u8 = 0;
const RLE: u8 = 1;
const COMPRESSED: u8 = 2;
const RESERVED: u8 = 3;

/// A header that declares `size` in four bytes and needs no window but its content.
fn header(size: usize) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(0b1010_0000);
    out.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    out
}

fn block(last: bool, kind: u8, size: usize, payload: &[u8]) -> Vec<u8> {
    let header = u32::try_from(size).unwrap() << 3 | u32::from(kind) << 1 | u32::from(last);
    [&header.to_le_bytes()[..3], payload].concat()
}

fn raw(last: bool, bytes: &[u8]) -> Vec<u8> {
    block(last, RAW, bytes.len(), bytes)
}

fn entry(content: &[u8], frame: &[u8], holes: &[(u32, u32)]) -> FrameEntry {
    FrameEntry {
        id: ChunkId::of(content, holes.iter().map(|(offset, _)| *offset)),
        frame_len: u32::try_from(frame.len()).unwrap(),
        content_len: u32::try_from(content.len()).unwrap(),
        holes: holes
            .iter()
            .map(|(content_offset, frame_offset)| FrameHole {
                content_offset: *content_offset,
                frame_offset: *frame_offset,
            })
            .collect(),
    }
}

fn check(content: &[u8], frame: &[u8], holes: &[(u32, u32)]) -> Result<(), FrameError> {
    FrameDecoder::default().check(&entry(content, frame, holes), frame)
}

#[track_caller]
fn assert_refused(content: &[u8], frame: &[u8], holes: &[(u32, u32)], reason: &str) {
    let error = check(content, frame, holes).unwrap_err().to_string();
    assert!(error.contains(reason), "{error:?}, not {reason:?}");
}

fn content() -> Vec<u8> {
    b"What a chunk holds, a hundred bytes of it. ".repeat(3)[..100].to_vec()
}

/// `content()` with a hole, as raw blocks: 10 bytes, the hole, the rest.
fn with_hole() -> (Vec<u8>, Vec<u8>) {
    let mut content = content();
    content[10..10 + HOLE].fill(0);
    let frame =
        [header(100), raw(false, &content[..10]), raw(false, &content[10..42]), raw(true, &content[42..])]
            .concat();
    (content, frame)
}

const HOLE_AT: (u32, u32) = (10, 9 + 13 + 3);

#[test]
fn accepts_plain_frames() {
    let content = content();
    assert_eq!(check(&content, &[header(100), raw(true, &content)].concat(), &[]), Ok(()));
    // The last block may be empty, as zstd's own is at times.
    let frame = [header(100), raw(false, &content), raw(true, b"")].concat();
    assert_eq!(check(&content, &frame, &[]), Ok(()));
    assert_eq!(check(&[7; 100], &[header(100), block(true, RLE, 100, &[7])].concat(), &[]), Ok(()));
    let (content, frame) = with_hole();
    assert_eq!(check(&content, &frame, &[HOLE_AT]), Ok(()));
    // What stands in a hole does not matter.
    let mut frame = frame;
    frame[25..25 + HOLE].fill(b'x');
    assert_eq!(check(&content, &frame, &[HOLE_AT]), Ok(()));
}

#[test]
fn refuses_content_of_another_size() {
    let content = content();
    // Expands past its declared size, by far and by one byte.
    assert_refused(&content, &[header(100), block(true, RLE, 128 << 10, &[0])].concat(), &[], "decoded");
    assert_refused(
        &content,
        &[header(100), raw(true, &[&content[..], b"x"].concat())].concat(),
        &[],
        "decoded",
    );
    assert_refused(&content, &[header(100), raw(true, &content[..99])].concat(), &[], "decoded");
    // Declares another size than the index says.
    assert_refused(&content, &[header(99), raw(true, &content[..99])].concat(), &[], "declares another");
    let largest = vec![0; MAX_CHUNK + 1];
    let zeros = [vec![block(false, RLE, 128 << 10, &[0]); 8].concat(), block(true, RLE, 1, &[0])].concat();
    assert_refused(&largest, &[header(largest.len()), zeros.clone()].concat(), &[], "larger than 1 MiB");
    assert_eq!(
        check(
            &largest[1..],
            &[header(MAX_CHUNK), zeros[..8 * 4 - 4].to_vec(), block(true, RLE, 128 << 10, &[0])].concat(),
            &[]
        ),
        Ok(())
    );
    assert_refused(b"", &[header(0), raw(true, b"")].concat(), &[], "empty");
    let mut lying = entry(&content, &[header(100), raw(true, &content)].concat(), &[]);
    lying.frame_len += 1;
    let frame = [header(100), raw(true, &content)].concat();
    assert!(FrameDecoder::default().check(&lying, &frame).is_err());
}

#[test]
fn refuses_padding() {
    let content = content();
    let empty = raw(false, b"");
    assert_refused(
        &content,
        &[header(100), empty.clone(), raw(true, &content)].concat(),
        &[],
        "empty blocks",
    );
    let repeated = [header(100), block(false, RLE, 0, b"x"), raw(true, &content)].concat();
    assert_refused(&content, &repeated, &[], "empty blocks");
    // A block for each byte.
    let single: Vec<u8> = content[..99].iter().flat_map(|byte| raw(false, &[*byte])).collect();
    let frame = [header(100), single, raw(true, &content[99..])].concat();
    assert!(frame.len() > max_frame(100, 0));
    assert_refused(&content, &frame, &[], "longer than zstd makes");
    let frame = [header(100), raw(true, &content)].concat();
    assert_refused(&content, &[&frame[..], b"\0"].concat(), &[], "follow");
}

#[test]
fn refuses_every_truncation() {
    let (content, frame) = with_hole();
    for end in 0..frame.len() {
        assert!(check(&content, &frame[..end], &[HOLE_AT]).is_err(), "{end}");
        assert!(check(&content, &frame[..end], &[]).is_err(), "{end}");
    }
}

#[test]
fn refuses_other_kinds_of_frame() {
    let content = content();
    let body = raw(true, &content);
    let with = |descriptor: u8, fields: &[u8]| [&MAGIC, &[descriptor][..], fields, &body].concat();
    let size = [100, 0, 0, 0];
    assert_eq!(check(&content, &with(0b1010_0000, &size), &[]), Ok(()));
    // A checksum, with and without its bytes at the end.
    assert_refused(&content, &with(0b1010_0100, &size), &[], "checksum");
    assert_refused(&content, &[&with(0b1010_0100, &size)[..], b"sum!"].concat(), &[], "checksum");
    // Dictionary ids of 1, 2, 4 bytes, be they zero.
    for (bits, id) in [(1, &[0][..]), (2, &[1, 0]), (3, &[0; 4])] {
        assert_refused(&content, &with(0b1010_0000 | bits, &[id, &size].concat()), &[], "dictionary");
    }
    // The bit that is reserved, and the one that is unused.
    assert_refused(&content, &with(0b1010_1000, &size), &[], "reserved");
    assert_refused(&content, &with(0b1011_0000, &size), &[], "reserved");
    // Windows: 1 KiB, 8 MiB, the next size above, the largest.
    for (window, fits) in [(0, true), (13 << 3, true), (13 << 3 | 1, false), (0xff, false)] {
        let frame = with(0b1000_0000, &[&[window][..], &size].concat());
        assert_eq!(check(&content, &frame, &[]).is_ok(), fits, "{window}");
    }
    assert_refused(&content, &with(0b1000_0000, &[&[0xff][..], &size].concat()), &[], "8 MiB");
    // No content size; one in 1, 2, 8 bytes.
    assert_refused(&content, &with(0b0000_0000, &[0]), &[], "does not declare");
    assert_eq!(check(&content, &with(0b0010_0000, &[100]), &[]), Ok(()));
    assert_eq!(check(&content, &with(0b1110_0000, &100u64.to_le_bytes()), &[]), Ok(()));
    assert_refused(&content, &with(0b0110_0000, &[100, 0]), &[], "declares another");
    assert_refused(&content, &with(0b1110_0000, &[0xff; 8]), &[], "declares another");
    // Other magic numbers: of a skippable frame, of zstd's older formats.
    let mut frame = with(0b1010_0000, &size);
    for first in [0x50, 0x27, 0x1e] {
        frame[0] = first;
        assert_refused(&content, &frame, &[], "magic");
    }
}

#[test]
fn refuses_more_than_one_frame() {
    let content = content();
    let frame = [header(100), raw(true, &content)].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18][..], &3u32.to_le_bytes(), b"xxx"].concat();
    assert_refused(&content, &[&skippable[..], &frame].concat(), &[], "magic");
    assert_refused(&content, &[&frame[..], &skippable].concat(), &[], "follow");
    let half = |range: std::ops::Range<usize>| [header(50), raw(true, &content[range])].concat();
    assert_refused(&content, &[half(0..50), half(50..100)].concat(), &[], "declares another");
    let empty = [header(0), raw(true, b"")].concat();
    assert_refused(&content, &[&frame[..], &empty].concat(), &[], "follow");
}

#[test]
fn refuses_blocks_that_the_format_does_not_allow() {
    let content = content();
    assert_refused(&content, &[header(100), block(true, RESERVED, 100, &content)].concat(), &[], "RFC 8878");
    let large = vec![1; (128 << 10) + 1];
    assert_refused(&large, &[header(large.len()), raw(true, &large)].concat(), &[], "RFC 8878");
    let repeated = [header(large.len()), block(true, RLE, large.len(), &[1])].concat();
    assert_refused(&large, &repeated, &[], "RFC 8878");
    // A compressed block that is none.
    assert_refused(&content, &[header(100), block(true, 2, 50, &[0xff; 50])].concat(), &[], "decoded");
}

#[test]
fn refuses_a_wrong_name() {
    let (content, frame) = with_hole();
    let mut other = content.clone();
    other[99] ^= 1;
    assert_eq!(check(&other, &frame, &[HOLE_AT]), Err(FrameError::WrongName));
    // The same bytes without the hole are another chunk.
    let mut entry = entry(&content, &frame, &[]);
    assert_eq!(FrameDecoder::default().check(&entry, &frame), Ok(()));
    entry.holes.push(FrameHole { content_offset: HOLE_AT.0, frame_offset: HOLE_AT.1 });
    assert_eq!(FrameDecoder::default().check(&entry, &frame), Err(FrameError::WrongName));
}

#[test]
fn refuses_holes_that_are_no_raw_block() {
    let (content, frame) = with_hole();
    // Beside the block, in its header, in the frame's, behind the end.
    for frame_offset in [HOLE_AT.1 - 3, HOLE_AT.1 - 1, HOLE_AT.1 + 1, 0, 9, u32::MAX - 31, u32::MAX] {
        assert_refused(&content, &frame, &[(10, frame_offset)], "no raw block");
    }
    let ends = u32::try_from(frame.len() - HOLE).unwrap();
    assert_refused(&content, &frame, &[(68, ends)], "no raw block");
    let zeros = vec![0; 32];
    assert_refused(&zeros, &[header(32), block(true, RLE, 32, &[0])].concat(), &[(0, 12)], "no raw block");
    let zeros = vec![0; 33];
    assert_refused(&zeros, &[header(33), raw(true, &zeros)].concat(), &[(0, 12)], "no raw block");
    // Two holes in one block.
    let twice = [(10, HOLE_AT.1), (42, HOLE_AT.1)];
    assert_refused(&content, &frame, &twice, "no raw block");
}

#[test]
fn refuses_holes_elsewhere_in_the_content() {
    let (content, frame) = with_hole();
    for offset in [0, 9, 11, 42, 68] {
        assert_refused(&content, &frame, &[(offset, HOLE_AT.1)], "do not come out");
    }
    for offset in [69, 100, u32::MAX] {
        assert_refused(&content, &frame, &[(offset, HOLE_AT.1)], "outside the content");
    }
    let block = raw(false, &[0; HOLE]);
    let frame = [header(64), block.clone(), raw(true, &[0; HOLE])].concat();
    let (first, second) = (12, 12 + 32 + 3);
    assert_eq!(check(&[0; 64], &frame, &[(0, first), (32, second)]), Ok(()));
    assert_refused(&[0; 64], &frame, &[(0, first), (31, second)], "overlaps");
    assert_refused(&[0; 64], &frame, &[(32, second), (0, first)], "out of order");
    assert_refused(&[0; 64], &frame, &[(0, second), (32, first)], "no raw block");
    assert_refused(&[0; 64], &frame, &[(32, first)], "do not come out");
    let many: Vec<(u32, u32)> = (0..1025).map(|n| (n * 32, 12)).collect();
    assert_refused(&vec![0; 1025 * 32], &header(1025 * 32), &many, "too many");
}

/// What zstd makes of `pieces`, flushed after each.
fn compress(pieces: &[&[u8]]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    encoder.set_pledged_src_size(Some(len as u64)).unwrap();
    encoder.include_contentsize(true).unwrap();
    for piece in pieces {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn refuses_a_hole_to_which_later_bytes_refer() {
    let filling = Random(1).bytes(HOLE);
    for (copy, refused) in [(&filling[..], true), (&filling[20..30], true), (&[b'x'; 32], false)] {
        let rest = [b"and then ", copy, &b" once more, ".repeat(20)].concat();
        let frame = compress(&[&filling, &rest]);
        let at = frame.windows(HOLE).position(|bytes| bytes == filling).unwrap();
        let hole = (0, u32::try_from(at).unwrap());
        // Whatever the client calls it: by the bytes that were compressed, or as they decode with zeros there.
        let content = [&[0; HOLE], &rest[..]].concat();
        let mut zeroed = frame.clone();
        zeroed[at..at + HOLE].fill(0);
        let decoded = zstd::decode_all(&zeroed[..]).unwrap();
        for content in [content, decoded] {
            if refused {
                assert_refused(&content, &frame, &[hole], "later bytes refer to it");
            } else {
                assert_eq!(check(&content, &frame, &[hole]), Ok(()));
            }
        }
    }
}

#[test]
fn fills_no_hole_outside_the_frame_and_no_other_number_of_holes() {
    let hash = Random(1).hash();
    let mut frame = vec![0; 40];
    assert_eq!(fill_holes(&mut frame, [8].into_iter(), &[hash]), Ok(()));
    assert_eq!(frame[8..], hash.digits());
    for offsets in [&[9][..], &[u32::MAX], &[], &[0, 1]] {
        assert!(fill_holes(&mut frame, offsets.iter().copied(), &[hash]).is_err());
    }
}

#[test]
fn makes_frames_that_hold_at_every_level_and_length() {
    let mut random = Random(9);
    let text = b"Some text that can be compressed, but not to nothing: 0123456789. ".repeat(9000);
    let noise = random.bytes(600_000);
    let (mut out, mut expected) = (Vec::new(), Vec::new());
    for level in [-5, 1, 3, 9, 19] {
        let (mut encoder, mut decoder) = (FrameEncoder::new(level), FrameDecoder::default());
        for source in [&text, &noise, &vec![0; 600_000]] {
            for (len, holes) in [
                (1, &[][..]),
                (32, &[0]),
                (33, &[0]),
                (33, &[1]),
                (64, &[0, 32]),
                (200, &[7, 39, 100, 168]),
                (300_000, &[]),
                (300_000, &[0, 131_072 - 16, 262_144, 300_000 - 32]),
                (524_319, &[524_287]),
            ] {
                let mut content = source[..len].to_vec();
                for hole in holes {
                    content[*hole as usize..*hole as usize + HOLE].fill(0);
                }
                let id = ChunkId::of(&content, holes.iter().copied());
                let mut frame = encoder.encode(&content, holes);
                let entry = FrameEntry::of(id, len, &frame).unwrap();
                assert_eq!(decoder.check(&entry, &frame.bytes), Ok(()), "{level} {len} {holes:?}");
                let hashes: Vec<_> = holes.iter().map(|_| random.hash()).collect();
                let offsets: Vec<u32> = frame.holes.iter().map(|hole| hole.frame_offset).collect();
                fill_holes(&mut frame.bytes, offsets.into_iter(), &hashes).unwrap();
                for (hole, hash) in holes.iter().zip(&hashes) {
                    content[*hole as usize..*hole as usize + HOLE].copy_from_slice(&hash.digits());
                }
                assert!(decoder.decode(&frame.bytes, entry.content_len).unwrap() == content);
                out.extend_from_slice(&frame.bytes);
                expected.extend_from_slice(&content);
            }
        }
    }
    // All of them one behind the other are one `.zst`.
    let mut decoded = Vec::new();
    zstd::Decoder::new(&out[..]).unwrap().read_to_end(&mut decoded).unwrap();
    assert!(decoded == expected);
}

/// A header that declares `size` and a window of 1 KiB.
fn narrow_header(size: usize) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&[0b1000_0000, 0]);
    out.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    out
}

/// One compressed block: a literal, and a match with it of 131,074 bytes.
fn long_match(literal: u8) -> Vec<u8> {
    // One raw literal; one sequence, its three codes by RLE: literals 1, offset "the last", match length 65,539 and
    // 16 bits more, all of them set.
    let payload = [1 << 3, literal, 1, 0b0101_0100, 1, 0, 52, 0xff, 0xff, 1];
    block(true, COMPRESSED, payload.len(), &payload)
}

/// Frames that zstd decodes when it has them whole, and refuses when it reads them piece by piece, as Nix does.
#[test]
fn refuses_what_only_a_decoder_with_the_whole_frame_takes() {
    let content = vec![b'x'; 4000];
    let frame = [narrow_header(4000), raw(false, &content[..2000]), raw(true, &content[2000..])].concat();
    assert_refused(&content, &frame, &[], "window");
    let content = vec![b'x'; 131_075];
    let frame = [header(content.len()), long_match(b'x')].concat();
    assert!(zstd::bulk::decompress(&frame, content.len()).is_ok_and(|decoded| decoded == content));
    assert!(zstd::stream::decode_all(&frame[..]).is_err());
    assert_refused(&content, &frame, &[], "decoded");
}
