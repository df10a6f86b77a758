//! Writing a NAR, one thing after another.

use std::io::{self, Read};

/// How many bytes are handed over at once, but for the last.
const PIECE: usize = 256 << 10;

/// Writes a NAR. Its caller says what comes in the order of a NAR: one node; in a directory, its entries by the order of
/// their names' bytes, each with one node.
pub struct NarWriter<W> {
    out: W,
    buffer: Vec<u8>,
    filled: usize,
    written: u64,
}

/// Why a file's contents could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// They could not be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// They are longer or shorter than was said.
    #[error("is longer or shorter than it was said to be")]
    Length,
    /// What takes the NAR refused more of it.
    #[error(transparent)]
    Write(io::Error),
}

impl<W: FnMut(&[u8]) -> io::Result<()>> NarWriter<W> {
    /// Begins a NAR that is handed to `out` piece by piece.
    ///
    /// # Errors
    /// When `out` refuses, here as in all that follows.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, buffer: vec![0; PIECE], filled: 0, written: 0 };
        writer.string(b"nix-archive-1")?;
        Ok(writer)
    }

    /// Begins a directory.
    ///
    /// # Errors
    /// See [`NarWriter::new`].
    pub fn begin_directory(&mut self) -> io::Result<()> {
        self.strings(&[b"(", b"type", b"directory"])
    }

    /// Begins an entry of a directory: its node follows.
    ///
    /// # Errors
    /// See [`NarWriter::new`].
    pub fn begin_entry(&mut self, name: &[u8]) -> io::Result<()> {
        self.strings(&[b"entry", b"(", b"name", name, b"node"])
    }

    /// Ends an entry, or a directory.
    ///
    /// # Errors
    /// See [`NarWriter::new`].
    pub fn end(&mut self) -> io::Result<()> {
        self.string(b")")
    }

    /// Writes a symlink.
    ///
    /// # Errors
    /// See [`NarWriter::new`].
    pub fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.strings(&[b"(", b"type", b"symlink", b"target", target, b")"])
    }

    /// Writes a file of exactly `len` bytes.
    ///
    /// # Errors
    /// When the contents cannot be read or are of another length, or `out` refuses.
    pub fn file(
        &mut self,
        executable: bool,
        len: u64,
        contents: &mut impl Read,
    ) -> Result<(), ContentsError> {
        self.strings(&[b"(", b"type", b"regular"]).map_err(ContentsError::Write)?;
        if executable {
            self.strings(&[b"executable", b""]).map_err(ContentsError::Write)?;
        }
        self.string(b"contents").map_err(ContentsError::Write)?;
        self.write(&len.to_le_bytes()).map_err(ContentsError::Write)?;
        self.contents(contents, len)?;
        self.pad(len).map_err(ContentsError::Write)?;
        self.string(b")").map_err(ContentsError::Write)
    }

    /// Ends the NAR and tells its length in bytes.
    ///
    /// # Errors
    /// See [`NarWriter::new`].
    pub fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        Ok(self.written)
    }

    /// Copies a file's contents, read straight into the buffer.
    fn contents(&mut self, file: &mut impl Read, len: u64) -> Result<(), ContentsError> {
        let mut left = len;
        loop {
            if self.filled == PIECE {
                self.flush().map_err(ContentsError::Write)?;
            }
            // One byte more than there should be, to see that there is none.
            let room = PIECE - self.filled;
            let asked = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(room);
            let read = match file.read(&mut self.buffer[self.filled..self.filled + asked]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ContentsError::Read(error)),
            };
            if read as u64 > left || read == 0 && left > 0 {
                return Err(ContentsError::Length);
            }
            self.filled += read;
            left -= read as u64;
            if left == 0 && read < asked {
                return Ok(());
            }
        }
    }

    fn strings(&mut self, strings: &[&[u8]]) -> io::Result<()> {
        strings.iter().try_for_each(|string| self.string(string))
    }

    fn string(&mut self, string: &[u8]) -> io::Result<()> {
        self.write(&(string.len() as u64).to_le_bytes())?;
        self.write(string)?;
        self.pad(string.len() as u64)
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        self.write(&[0; 7][..(len.wrapping_neg() % 8) as usize])
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.filled == PIECE {
                self.flush()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.filled));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.out)(&self.buffer[..self.filled])?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}
