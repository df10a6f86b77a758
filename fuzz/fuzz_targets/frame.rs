//! A frame that passes the check decodes to its chunk, whatever fills its holes. The input is an upload's
//! index and one frame; the chunk's name is mended, since nobody guesses a BLAKE3.

#![no_main]

use std::cell::RefCell;

use larder_protocol::{
    ChunkId, StorePathHash,
    chunk::{FrameDecoder, HOLE, fill_holes},
    upload::decode_index,
};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DECODER: RefCell<FrameDecoder> = RefCell::default();
}

fuzz_target!(|body: &[u8]| {
    let Ok(Some((entries, end))) = decode_index(body) else { return };
    let Some(mut entry) = entries.into_iter().next() else { return };
    let mut frame = body[end..].to_vec();
    entry.frame_len = u32::try_from(frame.len()).unwrap();
    let offsets: Vec<u32> = entry.holes.iter().map(|hole| hole.frame_offset).collect();
    DECODER.with_borrow_mut(|decoder| {
        let Ok(decoded) = decoder.decode(&frame, entry.content_len) else { return };
        let mut content = decoded.to_vec();
        for hole in &entry.holes {
            let start = hole.content_offset as usize;
            let Some(bytes) = content.get_mut(start..start.saturating_add(HOLE)) else { return };
            bytes.fill(0);
        }
        entry.id = ChunkId::of(&content, entry.holes.iter().map(|hole| hole.content_offset));
        if decoder.check(&entry, &frame).is_err() {
            return;
        }
        let hashes = vec![StorePathHash([0x5a; 20]); offsets.len()];
        fill_holes(&mut frame, offsets.iter().copied(), &hashes).unwrap();
        for hole in &entry.holes {
            let start = hole.content_offset as usize;
            content[start..start + HOLE].copy_from_slice(&hashes[0].digits());
        }
        assert_eq!(decoder.decode(&frame, entry.content_len).unwrap(), content);
    });
});
