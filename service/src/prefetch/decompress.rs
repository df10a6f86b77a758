//! Decompressing NARs, whatever upstreams have compressed them with, within bounds.

use std::io::{self, BufRead, Read};

use brotli_decompressor::Decompressor;
use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::{
    bufread::XzDecoder,
    stream::{CONCATENATED, Stream},
};

/// The compressions that are read, for people.
pub(super) const READ: &str = "xz, lzma, lzip, bzip2, gzip, zstd, br and none";

/// How an upstream has compressed a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// xz or lzma: which of them, the file says.
    Lzma,
    Lzip,
    Bzip2,
    Gzip,
    Zstd,
    Brotli,
}

/// How far back a compressed NAR may refer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Window {
    /// As far as it does where Nix compressed it.
    Small,
    /// As far as the tools do at their usual levels.
    Usual,
    /// As far as they do at their highest.
    Large,
}

/// The memory of xz's decoder at level 6, which Nix uses, and at level 9.
const USUAL_XZ: u64 = 10 << 20;
const LARGE_XZ: u64 = 66 << 20;
/// The windows of zstd at level 3, which Nix uses, up to level 19, and at level 22 but for its two largest.
const SMALL_ZSTD_LOG: u32 = 21;
const USUAL_ZSTD_LOG: u32 = 23;
const LARGE_ZSTD_LOG: u32 = 26;
/// What zstd's decoder takes besides.
const ZSTD: u64 = 512 << 10;
const BUFFER: usize = 64 << 10;
/// How a stream begins that has a larger window than Brotli's standard knows (RFC 7932, section 9.1): its decoder would
/// take up to 1 GiB.
const LARGE_BROTLI: u8 = 0b001_0001;

impl Compression {
    /// What a narinfo's `Compression` says; what Nix takes where the line is missing.
    pub(super) fn named(name: Option<&str>) -> Option<Self> {
        Some(match name.unwrap_or("bzip2") {
            "none" | "" => Self::None,
            "xz" | "lzma" => Self::Lzma,
            "lzip" => Self::Lzip,
            "bzip2" => Self::Bzip2,
            "gzip" => Self::Gzip,
            "zstd" => Self::Zstd,
            "br" => Self::Brotli,
            _ => return None,
        })
    }

    /// What a decoder takes of memory at most. Windows are taken whole, however short the NAR.
    pub(super) fn memory(self, window: Window) -> u64 {
        match self {
            Self::None => 0,
            Self::Lzma | Self::Lzip => xz_memory(window),
            Self::Bzip2 => 5 << 20,
            Self::Gzip => 1 << 20,
            Self::Zstd => (1 << zstd_log(window)) + ZSTD,
            Self::Brotli => 17 << 20,
        }
    }

    /// What `compressed` is when it is decompressed. Where that says `WouldBlock`, so does this, and goes on when it is
    /// read again; only the first byte must be there.
    pub(super) fn decoder(
        self,
        mut compressed: impl BufRead + Send + 'static,
        window: Window,
    ) -> io::Result<Box<dyn Read + Send>> {
        let xz = xz_memory(window);
        Ok(match self {
            Self::None => Box::new(compressed),
            Self::Lzma => {
                let stream = Stream::new_auto_decoder(xz, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(compressed, stream))
            }
            Self::Lzip => {
                let stream = Stream::new_lzip_decoder(xz, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(compressed, stream))
            }
            Self::Bzip2 => Box::new(MultiBzDecoder::new(compressed)),
            Self::Gzip => Box::new(MultiGzDecoder::new(compressed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(zstd_log(window))?;
                Box::new(decoder)
            }
            Self::Brotli => {
                if compressed.fill_buf()?.first().is_some_and(|first| first & 0x7f == LARGE_BROTLI) {
                    return Err(io::Error::other("it is compressed by brotli with too large a window"));
                }
                Box::new(Decompressor::new(compressed, BUFFER))
            }
        })
    }
}

impl Window {
    /// What is tried where this is too small.
    pub(super) fn larger(self) -> Option<Self> {
        match self {
            Self::Small => Some(Self::Usual),
            Self::Usual => Some(Self::Large),
            Self::Large => None,
        }
    }
}

fn xz_memory(window: Window) -> u64 {
    match window {
        Window::Small | Window::Usual => USUAL_XZ,
        Window::Large => LARGE_XZ,
    }
}

fn zstd_log(window: Window) -> u32 {
    match window {
        Window::Small => SMALL_ZSTD_LOG,
        Window::Usual => USUAL_ZSTD_LOG,
        Window::Large => LARGE_ZSTD_LOG,
    }
}

/// Whether decompressing failed because the window is larger than was allowed.
pub(super) fn wants_larger_window(error: &io::Error) -> bool {
    let lzma = error.get_ref().and_then(|error| error.downcast_ref::<liblzma::stream::Error>());
    // The `zstd` crate tells errors by zstd's own words alone.
    lzma == Some(&liblzma::stream::Error::MemLimit) || error.to_string().contains("requires too much memory")
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, io::Write as _, mem};

    use super::*;

    /// More than the usual windows hold, and repeating over a long distance.
    fn content() -> Vec<u8> {
        let mut hash = blake3::Hasher::new().finalize_xof();
        let mut block = vec![0; 9 << 20];
        hash.fill(&mut block);
        [block.clone(), block].concat()
    }

    /// Comes piece by piece, and never when it is first asked for.
    struct Halting {
        pieces: VecDeque<Vec<u8>>,
        is_there: bool,
    }

    impl BufRead for Halting {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            if mem::replace(&mut self.is_there, true) {
                return Ok(self.pieces.front().map(Vec::as_slice).unwrap_or_default());
            }
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn consume(&mut self, bytes: usize) {
            let Some(piece) = self.pieces.front_mut() else { return };
            piece.drain(..bytes);
            if piece.is_empty() {
                self.pieces.pop_front();
                self.is_there = false;
            }
        }
    }

    impl Read for Halting {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.fill_buf()?.read(buffer)?;
            self.consume(read);
            Ok(read)
        }
    }

    fn read(compression: Compression, bytes: Vec<u8>, window: Window) -> io::Result<Vec<u8>> {
        let pieces = bytes.chunks(bytes.len().div_ceil(1000)).map(<[u8]>::to_vec).collect();
        let mut decoder = compression.decoder(Halting { pieces, is_there: true }, window)?;
        let (mut out, mut piece) = (Vec::new(), vec![0; 100_000]);
        loop {
            match decoder.read(&mut piece) {
                Ok(0) => return Ok(out),
                Ok(read) => out.extend(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn xz(level: u32, content: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), level);
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// As `lzip` writes it: what `lzma` does, in other clothes.
    fn lzip(level: u32, dictionary_log: u8, content: &[u8]) -> Vec<u8> {
        let mut options = liblzma::stream::LzmaOptions::new_preset(level).unwrap();
        options.dict_size(1 << dictionary_log);
        let stream = Stream::new_lzma_encoder(&options).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(content).unwrap();
        let lzma = encoder.finish().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut member =
            [b"LZIP\x01", [dictionary_log].as_slice(), &lzma[13..], &crc.sum().to_le_bytes()].concat();
        member.extend((content.len() as u64).to_le_bytes());
        member.extend((member.len() as u64 + 8).to_le_bytes());
        member
    }

    #[test]
    fn what_wants_a_larger_window_gets_it_only_when_told() {
        let content = content();
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.window_log(25).unwrap();
        zstd.write_all(&content).unwrap();
        for (compression, bytes) in [
            (Compression::Lzma, xz(9, &content)),
            (Compression::Lzip, lzip(0, 25, &content)),
            (Compression::Zstd, zstd.finish().unwrap()),
        ] {
            let refused = read(compression, bytes.clone(), Window::Usual).unwrap_err();
            assert!(wants_larger_window(&refused), "{refused:?}");
            assert!(read(compression, bytes, Window::Large).unwrap() == content);
        }
        let cut = xz(0, &content[..1000])[..500].to_vec();
        assert!(!wants_larger_window(&read(Compression::Lzma, cut, Window::Usual).unwrap_err()));
    }

    #[test]
    fn several_streams_behind_each_other_are_one_nar() {
        let (one, other) = (b"one ".as_slice(), b"other".as_slice());
        let gzip = |content: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        let bzip2 = |content: &[u8]| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |content: &[u8]| zstd::encode_all(content, 3).unwrap();
        for (name, bytes) in [
            ("none", [one, other].concat()),
            ("xz", [xz(6, one), xz(6, other)].concat()),
            ("lzip", [lzip(6, 23, one), lzip(6, 23, other)].concat()),
            ("bzip2", [bzip2(one), bzip2(other)].concat()),
            ("gzip", [gzip(one), gzip(other)].concat()),
            ("zstd", [zstd(one), zstd(other)].concat()),
        ] {
            let compression = Compression::named(Some(name)).unwrap();
            assert_eq!(read(compression, bytes, Window::Usual).unwrap(), b"one other", "{name}");
        }
        assert_eq!(Compression::named(None), Some(Compression::Bzip2));
        for name in ["lz4", "lzop", "rot13"] {
            assert_eq!(Compression::named(Some(name)), None);
        }
    }

    /// Nothing, in a window of 1 GiB, as `brotli --large_window=30` has it.
    #[test]
    fn brotli_has_the_windows_of_its_standard_alone() {
        for first in [0x11, 0x91] {
            let refused = read(Compression::Brotli, vec![first, 0xde], Window::Large).unwrap_err();
            assert!(refused.to_string().contains("too large a window"), "{refused}");
            assert!(!wants_larger_window(&refused));
        }
    }

    /// Made by `printf 'hello, brotli' | brotli -c`.
    #[test]
    fn what_other_tools_made_is_read() {
        let brotli = b"\x0b\x06\x80hello, brotli\x03".to_vec();
        assert_eq!(read(Compression::Brotli, brotli, Window::Usual).unwrap(), b"hello, brotli");
    }
}
