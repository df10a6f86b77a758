//! Frames: a chunk as stored, one standalone zstd frame in which the bytes of each hole stand
//! verbatim, so that they can be overwritten in place.
//!
//! The format is RFC 8878. A raw block holds its bytes as they are; nothing else in the frame depends
//! on them unless a later match refers back to them, and that is what is checked.

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective, compress_bound, zstd_sys::ZSTD_EndDirective,
};

use super::{ChunkId, DEFAULT_LEVEL, FrameHole, HOLE, MAX_CHUNK, MAX_HOLES};
use crate::{StorePathHash, upload::FrameEntry};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window that a reader must hold: as much as Nix's decoder takes without asking.
const MAX_WINDOW: u64 = 8 << 20;
/// The largest block of RFC 8878.
const MAX_BLOCK: usize = 128 << 10;
const RAW: usize = 0;

/// The longest frame that a chunk of `content` bytes with `holes` holes may have.
pub fn max_frame(content: usize, holes: usize) -> usize {
    compress_bound(content) + holes * 8 + 32
}

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the narrow kind of frame that is stored.
    #[error("the frame is not of the kind that is stored: {0}")]
    Kind(&'static str),
    /// zstd cannot decode it.
    #[error("the frame cannot be decoded: {0}")]
    Undecodable(&'static str),
    /// It decodes to something else than its name says.
    #[error("the frame's content does not have the chunk's name")]
    WrongName,
    /// A hole cannot be filled in place.
    #[error("a hole of the frame cannot be filled: {0}")]
    Hole(&'static str),
}

/// A frame as the encoder made it.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Where its holes are.
    pub holes: Vec<FrameHole>,
}

/// Makes frames. Keeps zstd's tables: one for each thread.
pub struct FrameEncoder {
    context: CCtx<'static>,
    decoder: FrameDecoder,
}

impl Default for FrameEncoder {
    fn default() -> Self {
        Self::new(DEFAULT_LEVEL)
    }
}

impl FrameEncoder {
    /// An encoder at a level of zstd's.
    pub fn new(level: i32) -> Self {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
            CParameter::WindowLog(20),
        ] {
            // These values are within zstd's bounds, but for a level, which it clamps.
            let _ = context.set_parameter(parameter);
        }
        Self { context, decoder: FrameDecoder::default() }
    }

    /// Makes the frame of a chunk. `content` is zero in its holes, which begin at `holes`.
    pub fn encode(&mut self, content: &[u8], holes: &[u32]) -> EncodedFrame {
        let frame = if holes.is_empty() {
            self.compress(content)
        } else {
            (0..FILLINGS).find_map(|attempt| self.compress_around(content, holes, attempt))
        };
        // What is not compressed can always be filled.
        frame.unwrap_or_else(|| store(content, holes))
    }

    fn compress(&mut self, content: &[u8]) -> Option<EncodedFrame> {
        let mut bytes = Vec::with_capacity(compress_bound(content.len()));
        self.context.compress2(&mut bytes, content).ok()?;
        Some(EncodedFrame { bytes, holes: Vec::new() })
    }

    /// `None` if zstd found the filling of a hole elsewhere in the content.
    fn compress_around(&mut self, content: &[u8], holes: &[u32], attempt: u32) -> Option<EncodedFrame> {
        self.context.reset(ResetDirective::SessionOnly).ok()?;
        self.context.set_pledged_src_size(Some(content.len() as u64)).ok()?;
        let mut bytes = Vec::with_capacity(max_frame(content.len(), holes.len()));
        let mut out = OutBuffer::around(&mut bytes);
        let mut frame_holes = Vec::with_capacity(holes.len());
        let mut at = 0;
        for hole in holes {
            let start = *hole as usize;
            if start > at {
                self.feed(&mut out, content.get(at..start)?, ZSTD_EndDirective::ZSTD_e_flush)?;
            }
            let filling = filling(*hole, attempt);
            self.feed(&mut out, &filling, ZSTD_EndDirective::ZSTD_e_flush)?;
            let frame_offset = out.pos().checked_sub(HOLE)?;
            if out.as_slice()[frame_offset..] != filling {
                return None;
            }
            frame_holes
                .push(FrameHole { content_offset: *hole, frame_offset: u32::try_from(frame_offset).ok()? });
            at = start + HOLE;
        }
        self.feed(&mut out, content.get(at..)?, ZSTD_EndDirective::ZSTD_e_end)?;
        let mut frame = EncodedFrame { bytes, holes: frame_holes };
        // The filling has no zero byte: what a later match copied from it comes out changed.
        for hole in &frame.holes {
            fill_hole(&mut frame.bytes, hole.frame_offset, &[0; HOLE])?;
        }
        let decoded = self.decoder.decode(&frame.bytes, u32::try_from(content.len()).ok()?);
        decoded.is_ok_and(|decoded| decoded == content).then_some(frame)
    }

    fn feed(&mut self, out: &mut OutBuffer<'_, Vec<u8>>, bytes: &[u8], end: ZSTD_EndDirective) -> Option<()> {
        let mut input = InBuffer::around(bytes);
        loop {
            let before = (out.pos(), input.pos);
            let left = self.context.compress_stream2(out, &mut input, end).ok()?;
            if left == 0 && input.pos == bytes.len() {
                return Some(());
            }
            if (out.pos(), input.pos) == before {
                return None;
            }
        }
    }
}

/// How often a frame is made with other fillings before the chunk is stored as it is.
const FILLINGS: u32 = 4;

/// What a hole is filled with while the frame is made: bytes that nothing resembles, another for each hole,
/// none of them zero.
fn filling(offset: u32, attempt: u32) -> [u8; HOLE] {
    let seed = u64::from(offset) | u64::from(attempt) << 32;
    blake3::derive_key("larder 2026 filling of a hole", &seed.to_le_bytes()).map(|byte| byte.max(1))
}

/// A frame of raw blocks alone.
fn store(content: &[u8], holes: &[u32]) -> EncodedFrame {
    let mut bytes = Vec::with_capacity(max_frame(content.len(), holes.len()));
    bytes.extend_from_slice(&MAGIC);
    // A single segment, its content size in four bytes.
    bytes.push(0b1010_0000);
    bytes.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    // A block may not be larger than the window, which here is the content.
    let mut frame_holes = Vec::with_capacity(holes.len());
    let mut runs = Vec::new();
    let mut at = 0;
    for hole in holes {
        let start = *hole as usize;
        runs.extend(content[at..start].chunks(MAX_BLOCK).map(|run| (run, None)));
        runs.push((&content[start..start + HOLE], Some(*hole)));
        at = start + HOLE;
    }
    runs.extend(content[at..].chunks(MAX_BLOCK).map(|run| (run, None)));
    let count = runs.len();
    for (position, (run, hole)) in runs.into_iter().enumerate() {
        let header = (run.len() << 3) | (RAW << 1) | usize::from(position + 1 == count);
        bytes.extend_from_slice(&header.to_le_bytes()[..3]);
        if let Some(content_offset) = hole {
            let frame_offset = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            frame_holes.push(FrameHole { content_offset, frame_offset });
        }
        bytes.extend_from_slice(run);
    }
    EncodedFrame { bytes, holes: frame_holes }
}

impl FrameEntry {
    /// The index's entry for a frame; `None` beyond its bounds.
    pub fn of(id: ChunkId, content_len: usize, frame: &EncodedFrame) -> Option<Self> {
        Some(Self {
            id,
            frame_len: u32::try_from(frame.bytes.len()).ok()?,
            content_len: u32::try_from(content_len).ok()?,
            holes: frame.holes.clone(),
        })
    }
}

/// Writes `hashes` into the holes of a frame, which begin at `frame_offsets`.
///
/// # Errors
/// When there are not as many of one as of the other, or a hole lies outside the frame.
pub fn fill_holes(
    frame: &mut [u8],
    frame_offsets: impl ExactSizeIterator<Item = u32>,
    hashes: &[StorePathHash],
) -> Result<(), FrameError> {
    if frame_offsets.len() != hashes.len() {
        return Err(FrameError::Hole("the recipe has another number of hashes than the chunk has holes"));
    }
    for (offset, hash) in frame_offsets.zip(hashes) {
        fill_hole(frame, offset, &hash.digits()).ok_or(FrameError::Hole("it lies outside the frame"))?;
    }
    Ok(())
}

fn fill_hole(frame: &mut [u8], offset: u32, bytes: &[u8; HOLE]) -> Option<()> {
    let offset = offset as usize;
    frame.get_mut(offset..offset + HOLE)?.copy_from_slice(bytes);
    Some(())
}

/// Decodes and checks frames. Keeps its buffers: one for each thread.
pub struct FrameDecoder {
    context: DCtx<'static>,
    content: Vec<u8>,
    other: Vec<u8>,
    frame: Vec<u8>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self { context: DCtx::create(), content: Vec::new(), other: Vec::new(), frame: Vec::new() }
    }
}

impl FrameDecoder {
    /// Decodes a frame of `content_len` bytes, whose holes are filled.
    ///
    /// # Errors
    /// When it cannot be decoded to just as many bytes.
    pub fn decode(&mut self, frame: &[u8], content_len: u32) -> Result<&[u8], FrameError> {
        decode(&mut self.context, frame, content_len as usize, &mut self.content)?;
        Ok(&self.content)
    }

    /// Checks that a frame is of the kind that is stored, that its content has its name, and that
    /// its holes can be filled: that nothing but a hole changes when the hole does.
    ///
    /// # Errors
    /// Says which of these does not hold.
    pub fn check(&mut self, entry: &FrameEntry, frame: &[u8]) -> Result<(), FrameError> {
        let content_len = entry.content_len as usize;
        check_kind(entry, frame)?;
        if entry.holes.is_empty() {
            decode_in_pieces(&mut self.context, frame, content_len, &mut self.content)?;
        } else {
            self.frame.clear();
            self.frame.extend_from_slice(frame);
            fill_all(&mut self.frame, entry, &[0; HOLE]);
            decode_in_pieces(&mut self.context, &self.frame, content_len, &mut self.content)?;
            self.check_holes(entry)?;
        }
        let name = ChunkId::of(&self.content, entry.holes.iter().map(|hole| hole.content_offset));
        if name == entry.id { Ok(()) } else { Err(FrameError::WrongName) }
    }

    /// Every byte of a content is a byte that stands in the frame or a copy of an earlier one. So
    /// filling the holes with 32 different bytes, none of them zero, shows each place where they go.
    fn check_holes(&mut self, entry: &FrameEntry) -> Result<(), FrameError> {
        let pattern: [u8; HOLE] = std::array::from_fn(|n| 0x80 | u8::try_from(n).unwrap_or(0));
        fill_all(&mut self.frame, entry, &pattern);
        decode(&mut self.context, &self.frame, entry.content_len as usize, &mut self.other)?;
        for hole in &entry.holes {
            let start = hole.content_offset as usize;
            let range = start..start + HOLE;
            let there = self.content.get(range.clone()).is_some_and(|bytes| bytes == [0; HOLE])
                && self.other.get(range.clone()).is_some_and(|bytes| *bytes == pattern);
            if !there {
                return Err(FrameError::Hole("its bytes do not come out where it is said to be"));
            }
            self.other[range].fill(0);
        }
        if self.content == self.other { Ok(()) } else { Err(FrameError::Hole("later bytes refer to it")) }
    }
}

/// Fills all holes alike. `check_kind` has seen that they lie inside.
fn fill_all(frame: &mut [u8], entry: &FrameEntry, bytes: &[u8; HOLE]) {
    for hole in &entry.holes {
        let _ = fill_hole(frame, hole.frame_offset, bytes);
    }
}

fn decode(
    context: &mut DCtx<'static>,
    frame: &[u8],
    len: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    if len > MAX_CHUNK {
        return Err(FrameError::Kind("its content is larger than 1 MiB"));
    }
    out.clear();
    // zstd is given the capacity, and writes no more than the frame declares.
    out.reserve_exact(len);
    context
        .decompress(out, frame)
        .map_err(|code| FrameError::Undecodable(zstd::zstd_safe::get_error_name(code)))?;
    if out.len() == len {
        Ok(())
    } else {
        Err(FrameError::Kind("its content has another length than was said"))
    }
}

/// Decodes as readers do, who never have the whole frame: then zstd refuses blocks that decode to more than 128 KiB,
/// which it takes when it decodes at once.
fn decode_in_pieces(
    context: &mut DCtx<'static>,
    frame: &[u8],
    len: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let undecodable = |code| FrameError::Undecodable(zstd::zstd_safe::get_error_name(code));
    out.clear();
    out.reserve_exact(len);
    context.init().map_err(undecodable)?;
    let mut output = OutBuffer::around(out);
    let (first, last) = frame.split_at(frame.len().saturating_sub(1));
    let mut left = 1;
    for piece in [first, last] {
        let mut input = InBuffer::around(piece);
        loop {
            let before = (output.pos(), input.pos);
            left = context.decompress_stream(&mut output, &mut input).map_err(undecodable)?;
            if left == 0 || (output.pos(), input.pos) == before {
                break;
            }
        }
    }
    if left == 0 && out.len() == len {
        Ok(())
    } else {
        Err(FrameError::Kind("its content has another length than was said"))
    }
}

/// Walks the frame's header and blocks.
fn check_kind(entry: &FrameEntry, frame: &[u8]) -> Result<(), FrameError> {
    use FrameError::Kind;
    let content_len = entry.content_len as usize;
    if content_len == 0 || content_len > MAX_CHUNK {
        return Err(Kind("its content is empty or larger than 1 MiB"));
    }
    if entry.holes.len() > MAX_HOLES {
        return Err(Kind("it has too many holes"));
    }
    if frame.len() != entry.frame_len as usize || frame.len() > max_frame(content_len, entry.holes.len()) {
        return Err(Kind("it is longer than zstd makes one of its content"));
    }
    let mut expected = 0;
    for hole in &entry.holes {
        if (hole.content_offset as usize) < expected {
            return Err(FrameError::Hole("it overlaps another, or they are out of order"));
        }
        expected = hole.content_offset as usize + HOLE;
    }
    if expected > content_len {
        return Err(FrameError::Hole("it lies outside the content"));
    }
    let short = Kind("it ends too early");
    let (declared, mut at) = header(frame)?;
    if declared != content_len as u64 {
        return Err(Kind("it declares another content size than was said"));
    }
    let mut holes = entry.holes.iter().map(|hole| hole.frame_offset as usize).peekable();
    loop {
        let Some(&[a, b, c]) = frame.get(at..at + 3) else { return Err(short) };
        let header = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        at += 3;
        if size > MAX_BLOCK || kind == 3 {
            return Err(Kind("it has a block that RFC 8878 does not allow"));
        }
        if size == 0 && !last {
            return Err(Kind("it is padded with empty blocks"));
        }
        if kind == RAW && size == HOLE {
            holes.next_if_eq(&at);
        }
        at += if kind == 1 { 1 } else { size };
        if last {
            break;
        }
    }
    if holes.peek().is_some() {
        return Err(FrameError::Hole("it is no raw block of 32 bytes"));
    }
    match at.cmp(&frame.len()) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(Kind("bytes follow its last block")),
        std::cmp::Ordering::Greater => Err(short),
    }
}

/// The declared content size and the header's length.
fn header(frame: &[u8]) -> Result<(u64, usize), FrameError> {
    use FrameError::Kind;
    let mut fields = crate::recipe::Fields::new(frame);
    let short = || Kind("it ends too early");
    if fields.array::<4>() != Some(MAGIC) {
        return Err(Kind("it does not begin with zstd's magic number"));
    }
    let [descriptor] = fields.array::<1>().ok_or_else(short)?;
    if descriptor & 0b0001_1000 != 0 {
        return Err(Kind("its header has reserved bits set"));
    }
    if descriptor & 0b100 != 0 {
        return Err(Kind("it has a checksum, which does not survive the filling of holes"));
    }
    if descriptor & 0b11 != 0 {
        return Err(Kind("it needs a dictionary"));
    }
    let single_segment = descriptor & 0b10_0000 != 0;
    let mut window_size = None;
    if !single_segment {
        let [window] = fields.array::<1>().ok_or_else(short)?;
        let base = 1u64 << (10 + (window >> 3));
        window_size = Some(base + base / 8 * u64::from(window & 7));
    }
    let size = match descriptor >> 6 {
        0 if single_segment => fields.array::<1>().map(|[byte]| u64::from(byte)),
        0 => return Err(Kind("it does not declare its content size")),
        1 => fields.u16().map(|size| u64::from(size) + 256),
        2 => fields.u32().map(u64::from),
        _ => fields.u64(),
    };
    let size = size.ok_or_else(short)?;
    match window_size {
        Some(window) if window > MAX_WINDOW => Err(Kind("its window is larger than 8 MiB")),
        // What lies further back is there for a decoder that has the whole content, and for no other.
        Some(window) if window < size => Err(Kind("its window is smaller than its content")),
        _ => Ok((size, frame.len() - fields.rest().len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(content: &[u8], frame: &EncodedFrame) {
        let id = ChunkId::of(content, frame.holes.iter().map(|hole| hole.content_offset));
        let entry = FrameEntry::of(id, content.len(), frame).unwrap();
        FrameDecoder::default().check(&entry, &frame.bytes).unwrap();
    }

    fn compresses(content: &[u8], frame: &EncodedFrame) -> bool {
        frame.bytes.len() < content.len()
    }

    #[test]
    fn takes_another_filling_where_the_content_has_the_first() {
        let mut content = vec![0; HOLE];
        content.extend_from_slice(&b"text ".repeat(100));
        let mut encoder = FrameEncoder::default();
        for attempt in 0..FILLINGS {
            content.extend_from_slice(&filling(0, attempt));
            let frame = encoder.encode(&content, &[0]);
            checked(&content, &frame);
            // Each in turn, and when all are used up, none: then it is stored as it is.
            assert_eq!(compresses(&content, &frame), attempt + 1 < FILLINGS);
        }
    }

    #[test]
    fn stores_any_content_as_it_is() {
        for (len, holes) in [
            (1, &[][..]),
            (31, &[]),
            (32, &[0]),
            (33, &[1]),
            (64, &[0, 32]),
            (MAX_BLOCK, &[]),
            (MAX_BLOCK + 1, &[]),
            (300_000, &[0, 131_060, 299_968]),
            (MAX_CHUNK, &[5]),
        ] {
            let mut content: Vec<u8> = (0..=250).cycle().take(len).collect();
            for hole in holes {
                content[*hole as usize..*hole as usize + HOLE].fill(0);
            }
            let frame = store(&content, holes);
            assert_eq!(frame.holes.len(), holes.len());
            assert!(frame.bytes.len() <= max_frame(len, holes.len()));
            checked(&content, &frame);
        }
    }
}
