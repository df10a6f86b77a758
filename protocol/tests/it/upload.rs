//! The index of an upload.

use larder_protocol::{
    ChunkId,
    chunk::{FrameHole, MAX_CHUNK, MAX_HOLES, max_frame},
    upload::{FrameEntry, MAX_INDEX, decode_index, encode_index},
};

fn entry(id: u8, frame_len: u32, content_len: usize, holes: usize) -> FrameEntry {
    FrameEntry {
        id: ChunkId([id; 32]),
        frame_len,
        content_len: u32::try_from(content_len).unwrap(),
        holes: (0..u32::try_from(holes).unwrap())
            .map(|n| FrameHole { content_offset: n * 32, frame_offset: n * 35 + 12 })
            .collect(),
    }
}

#[test]
fn reads_what_it_writes_and_tells_where_the_frames_begin() {
    let entries = [entry(1, 100, 200, 0), entry(2, 40, 1, 3), entry(3, 1, MAX_CHUNK, MAX_HOLES)];
    for entries in [&entries[..], &entries[..1], &[]] {
        let index = encode_index(entries);
        let body = [&index[..], b"frames"].concat();
        let (read, end) = decode_index(&body).unwrap().unwrap();
        assert_eq!(read, entries);
        assert_eq!(end, index.len());
        for end in 0..index.len() {
            assert!(decode_index(&index[..end]).unwrap().is_none(), "{end}");
        }
    }
}

#[track_caller]
fn assert_refused(index: &[u8], reason: &str) {
    let error = decode_index(index).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn refuses_what_is_out_of_bounds_before_it_is_complete() {
    assert_refused(b"LARDERF2", "LARDERF1");
    assert_refused(&encode_index(&[])[..8].iter().map(|b| b ^ 1).collect::<Vec<_>>(), "LARDERF1");
    let counted = |count: u32| [&b"LARDERF1"[..], &count.to_le_bytes()].concat();
    assert_refused(&counted(65_537), "65,536");
    assert!(decode_index(&counted(65_536)).unwrap().is_none());
    assert_refused(&encode_index(&[entry(1, 10, 0, 0)]), "empty");
    assert_refused(&encode_index(&[entry(1, 10, MAX_CHUNK + 1, 0)]), "larger than 1 MiB");
    let most = u32::try_from(max_frame(100, 2)).unwrap();
    assert!(decode_index(&encode_index(&[entry(1, most, 100, 2)])).is_ok());
    assert_refused(&encode_index(&[entry(1, most + 1, 100, 2)]), "longer than zstd");
    let index = encode_index(&[entry(1, 10, 100, MAX_HOLES + 1)]);
    assert_refused(&index[..12 + 42], "holes");
}

#[test]
fn refuses_an_index_beyond_8_mib_complete_or_not() {
    let holes = MAX_INDEX / 8 / MAX_HOLES;
    let entries: Vec<_> = (0..=holes).map(|_| entry(1, 10, 100, MAX_HOLES)).collect();
    let index = encode_index(&entries);
    assert!(index.len() > MAX_INDEX);
    assert!(decode_index(&index[..MAX_INDEX - 1]).unwrap().is_none());
    assert_refused(&index[..MAX_INDEX], "8 MiB");
    assert_refused(&index, "8 MiB");
}
