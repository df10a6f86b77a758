//! How many MB one core does in a second, step by step:
//! `cargo run --release -p larder-protocol --example speed -- DIR`
//!
//! Counted is the time that this program's one thread had a core (Linux says), so that others on the
//! machine disturb little. All chunks are kept: memory grows with DIR.

use std::{
    error::Error,
    fs,
    hint::black_box,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use larder_protocol::{
    ChunkId,
    chunk::{CutChunk, Cutter, FrameDecoder, FrameEncoder, fill_holes},
    nar::{NarChecker, dump},
    upload::FrameEntry,
};
use sha2::{Digest as _, Sha256};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("which directory?")?);
    // Once unmeasured, so that its files are in memory.
    let size = dump(&dir, |_| Ok(()))?;

    measure(size, "dump", || {
        dump(&dir, |_| Ok(()))?;
        Ok(())
    })?;
    measure(size, "dump + SHA-256", || {
        let mut hasher = Sha256::new();
        dump(&dir, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        black_box(hasher.finalize());
        Ok(())
    })?;
    measure(size, "dump + cut and name", || {
        cut(&dir, |chunk| {
            black_box(chunk);
        })
    })?;
    let mut chunks = Vec::new();
    cut(&dir, |chunk| chunks.push(chunk))?;
    measure(size, "naming alone", || {
        for chunk in &chunks {
            black_box(ChunkId::of(&chunk.content, chunk.holes.iter().copied()));
        }
        Ok(())
    })?;
    let mut encoder = FrameEncoder::default();
    let mut frames = Vec::new();
    measure(size, "encode, level 3", || {
        frames = chunks.iter().map(|chunk| encoder.encode(&chunk.content, &chunk.holes)).collect();
        Ok(())
    })?;
    let mut decoder = FrameDecoder::default();
    measure(size, "check", || {
        for (chunk, frame) in chunks.iter().zip(&frames) {
            let entry = FrameEntry::of(chunk.id, chunk.content.len(), frame).ok_or("too large")?;
            decoder.check(&entry, &frame.bytes)?;
        }
        Ok(())
    })?;
    measure(size, "fill + decode", || {
        for (chunk, frame) in chunks.iter().zip(&mut frames) {
            let offsets = frame.holes.iter().map(|hole| hole.frame_offset);
            fill_holes(&mut frame.bytes, offsets, &chunk.hashes)?;
            black_box(decoder.decode(&frame.bytes, u32::try_from(chunk.content.len())?)?);
        }
        Ok(())
    })?;
    measure(size, "decode + SHA-256 + NAR check", || {
        let (mut hasher, mut checker) = (Sha256::new(), NarChecker::default());
        for (chunk, frame) in chunks.iter().zip(&frames) {
            let content = decoder.decode(&frame.bytes, u32::try_from(chunk.content.len())?)?;
            hasher.update(content);
            checker.feed(content)?;
        }
        black_box(hasher.finalize());
        Ok(checker.finish()?)
    })?;
    measure(size, "NAR check alone", || {
        let mut checker = NarChecker::default();
        for chunk in &chunks {
            // Zeros in the holes do no harm to the structure unless a file is named after a hash.
            checker.feed(&chunk.content)?;
        }
        Ok(checker.finish()?)
    })?;
    let stored: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
    let holes: usize = chunks.iter().map(|chunk| chunk.holes.len()).sum();
    let with_holes = chunks.iter().filter(|chunk| !chunk.holes.is_empty()).count();
    writeln!(
        io::stdout(),
        "{} MB in {} chunks ({with_holes} with {holes} holes), stored in {} MB",
        size / 1_000_000,
        chunks.len(),
        stored / 1_000_000
    )?;
    Ok(())
}

fn cut(dir: &Path, mut take: impl FnMut(CutChunk)) -> Outcome {
    let mut cutter = Cutter::new([]);
    let mut take = |chunk| {
        take(chunk);
        Ok::<_, io::Error>(())
    };
    dump(dir, |bytes| cutter.feed(bytes, &mut take))?;
    Ok(cutter.finish(&mut take)?)
}

fn measure(size: u64, step: &str, run: impl FnOnce() -> Outcome) -> Outcome {
    let start = core_seconds()?;
    run()?;
    let seconds = core_seconds()? - start;
    writeln!(io::stdout(), "{:8.0} MB/s  {step}", size as f64 / 1e6 / seconds)?;
    Ok(())
}

/// How long this thread has been on a core, in seconds.
fn core_seconds() -> Result<f64, Box<dyn Error>> {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = schedstat.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}
