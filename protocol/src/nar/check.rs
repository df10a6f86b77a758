//! Checking a NAR's structure.

use std::{cmp::Ordering, mem};

/// The longest file name that a NAR may have: as long as Linux takes (`NAME_MAX`). Nix itself sets no bound.
const MAX_NAME: usize = 255;
/// The longest target of a symlink: as long as Linux takes (`PATH_MAX` without its NUL).
const MAX_TARGET: usize = 4095;
/// The longest of the words between names and contents is `nix-archive-1`.
const MAX_TAG: usize = 13;
/// How deep directories may be nested. Nix opens files by absolute paths of at most 4,095 bytes, so
/// no tree that it can store is half as deep. With `MAX_NAME` this bounds the checker's memory to 1 MiB.
const MAX_DEPTH: usize = 4096;

/// A NAR that is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed NAR at byte {offset}: {reason}")]
pub struct NarError {
    /// Where the part begins that is wrong.
    pub offset: u64,
    /// What is wrong.
    pub reason: &'static str,
}

/// Checks the structure of a NAR whose bytes come in pieces of any length, in memory that does not
/// grow with it.
///
/// Takes what `nix-store --dump` can write and nothing else, as Nix does since 2.24. (Before, Nix's
/// parser also took fields in other orders, for which no NAR is known.)
#[derive(Default)]
pub struct NarChecker {
    expect: Expect,
    /// Where the string begins that is expected next.
    offset: u64,
    /// Its first bytes, if it came in pieces.
    pending: Vec<u8>,
    /// Bytes of a file's contents that are still to come.
    contents: u64,
    /// Zeros that are still to come after them.
    padding: u8,
    /// The last name of each open directory, one behind the other.
    names: Vec<u8>,
    /// For each open directory, where its last name begins in `names`.
    directories: Vec<u32>,
    failed: Option<NarError>,
}

/// The string that is expected next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Magic,
    NodeOpen,
    Type,
    Kind,
    ExecutableOrContents,
    ExecutableValue,
    ContentsTag,
    Contents,
    TargetTag,
    Target,
    EntryOrClose,
    EntryOpen,
    NameTag,
    Name,
    NodeTag,
    NodeClose,
    EntryClose,
    End,
}

impl NarChecker {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When no NAR begins so. The same again however often it is asked.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.advance(bytes).map_err(|reason| {
            let error = NarError { offset: self.offset, reason };
            self.failed = Some(error.clone());
            error
        })
    }

    /// Ends the NAR.
    ///
    /// # Errors
    /// When it is not complete.
    pub fn finish(self) -> Result<(), NarError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.expect == Expect::End => Ok(()),
            None => {
                let offset = self.offset + self.pending.len() as u64;
                Err(NarError { offset, reason: "it ends too early" })
            }
        }
    }

    fn advance(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            if self.contents > 0 {
                let skipped = usize::try_from(self.contents).unwrap_or(usize::MAX).min(bytes.len());
                self.contents -= skipped as u64;
                self.offset += skipped as u64;
                bytes = &bytes[skipped..];
            } else if self.padding > 0 {
                let (zeros, rest) = bytes.split_at(bytes.len().min(self.padding.into()));
                if let Some(position) = zeros.iter().position(|byte| *byte != 0) {
                    self.offset += position as u64;
                    return Err("a file's padding is not zero");
                }
                // Never more than 7.
                self.padding -= u8::try_from(zeros.len()).unwrap_or(self.padding);
                self.offset += zeros.len() as u64;
                bytes = rest;
            } else if self.pending.is_empty() {
                let len = self.string_len(bytes)?;
                let Some((string, rest)) = bytes.split_at_checked(len) else {
                    self.pending.extend_from_slice(bytes);
                    return Ok(());
                };
                self.take(string)?;
                bytes = rest;
            } else {
                let len = self.string_len(&self.pending)?;
                let (more, rest) = bytes.split_at((len - self.pending.len()).min(bytes.len()));
                self.pending.extend_from_slice(more);
                bytes = rest;
                // The length itself may just have become complete.
                if self.string_len(&self.pending)? == self.pending.len() {
                    let mut string = mem::take(&mut self.pending);
                    self.take(&string)?;
                    string.clear();
                    self.pending = string;
                }
            }
        }
        Ok(())
    }

    /// The length of the string that begins with `bytes`, its length's bytes and padding included;
    /// as much as must be there to say more, if that is unknown yet.
    fn string_len(&self, bytes: &[u8]) -> Result<usize, &'static str> {
        if self.expect == Expect::End {
            return Err("bytes follow its end");
        }
        let Some(len) = bytes.first_chunk().map(|len| u64::from_le_bytes(*len)) else { return Ok(8) };
        let (max, reason) = match self.expect {
            // Of a file's contents nothing but the length is looked at.
            Expect::Contents => return Ok(8),
            Expect::Name => (MAX_NAME, "a name is longer than 255 bytes"),
            Expect::Target => (MAX_TARGET, "a symlink's target is longer than 4,095 bytes"),
            expect => (MAX_TAG, expect.otherwise()),
        };
        match usize::try_from(len) {
            Ok(len) if len <= max => Ok(8 + len.next_multiple_of(8)),
            _ => Err(reason),
        }
    }

    /// Takes a whole string, its length's bytes and padding included.
    fn take(&mut self, string: &[u8]) -> Result<(), &'static str> {
        let (head, padded) = string.split_first_chunk().ok_or("a string is cut short")?;
        let len = u64::from_le_bytes(*head);
        if self.expect == Expect::Contents {
            // No file system has larger files; and nothing overflows.
            if len > i64::MAX as u64 {
                return Err("a file is larger than 2^63 bytes");
            }
            (self.contents, self.padding) = (len, (len.wrapping_neg() % 8) as u8);
            self.expect = Expect::NodeClose;
        } else {
            let (value, padding) = padded
                .split_at_checked(usize::try_from(len).unwrap_or(usize::MAX))
                .ok_or("a string is cut short")?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err("a string's padding is not zero");
            }
            self.expect = self.after(value)?;
        }
        self.offset += string.len() as u64;
        Ok(())
    }

    /// What is expected after `value`.
    fn after(&mut self, value: &[u8]) -> Result<Expect, &'static str> {
        Ok(match (self.expect, value) {
            (Expect::Magic, b"nix-archive-1") => Expect::NodeOpen,
            (Expect::NodeOpen, b"(") => Expect::Type,
            (Expect::Type, b"type") => Expect::Kind,
            (Expect::Kind, b"regular") => Expect::ExecutableOrContents,
            (Expect::Kind, b"symlink") => Expect::TargetTag,
            (Expect::Kind, b"directory") => {
                self.open_directory()?;
                Expect::EntryOrClose
            }
            (Expect::ExecutableOrContents, b"executable") => Expect::ExecutableValue,
            (Expect::ExecutableValue, b"") => Expect::ContentsTag,
            (Expect::ExecutableOrContents | Expect::ContentsTag, b"contents") => Expect::Contents,
            (Expect::TargetTag, b"target") => Expect::Target,
            (Expect::Target, target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err("a symlink's target is empty or has a NUL");
                }
                Expect::NodeClose
            }
            (Expect::EntryOrClose, b"entry") => Expect::EntryOpen,
            (Expect::EntryOrClose, b")") => {
                if let Some(name) = self.directories.pop() {
                    self.names.truncate(name as usize);
                }
                self.after_node()
            }
            (Expect::EntryOpen, b"(") => Expect::NameTag,
            (Expect::NameTag, b"name") => Expect::Name,
            (Expect::Name, name) => {
                self.take_name(name)?;
                Expect::NodeTag
            }
            (Expect::NodeTag, b"node") => Expect::NodeOpen,
            (Expect::NodeClose, b")") => self.after_node(),
            (Expect::EntryClose, b")") => Expect::EntryOrClose,
            (expect, _) => return Err(expect.otherwise()),
        })
    }

    fn after_node(&self) -> Expect {
        if self.directories.is_empty() { Expect::End } else { Expect::EntryClose }
    }

    fn open_directory(&mut self) -> Result<(), &'static str> {
        if self.directories.len() == MAX_DEPTH {
            return Err("its directories are nested deeper than 4,096");
        }
        // Never more than `MAX_DEPTH * MAX_NAME`.
        self.directories.push(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    fn take_name(&mut self, name: &[u8]) -> Result<(), &'static str> {
        if matches!(name, b"" | b"." | b"..") {
            return Err("a name is empty, . or ..");
        }
        if name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err("a name has a slash or a NUL");
        }
        let start = self.directories.last().map_or(0, |start| *start as usize);
        // A directory's first name has the empty one before it.
        match name.cmp(&self.names[start..]) {
            Ordering::Greater => {
                self.names.truncate(start);
                self.names.extend_from_slice(name);
                Ok(())
            }
            Ordering::Equal => Err("a name stands in a directory twice"),
            Ordering::Less => Err("a directory's names are out of order"),
        }
    }
}

impl Expect {
    /// What is wrong when something else stands there.
    fn otherwise(self) -> &'static str {
        match self {
            Self::Magic => "it does not begin with nix-archive-1",
            Self::NodeOpen | Self::EntryOpen => "\"(\" is expected",
            Self::Type => "\"type\" is expected",
            Self::Kind => "the type is neither regular, nor symlink, nor directory",
            Self::ExecutableOrContents => "\"executable\" or \"contents\" is expected",
            Self::ExecutableValue => "an empty string is expected behind \"executable\"",
            Self::ContentsTag | Self::Contents => "\"contents\" is expected",
            Self::TargetTag | Self::Target => "\"target\" is expected",
            Self::EntryOrClose => "\"entry\" or \")\" is expected",
            Self::NameTag | Self::Name => "\"name\" is expected",
            Self::NodeTag => "\"node\" is expected",
            Self::NodeClose | Self::EntryClose => "\")\" is expected",
            Self::End => "bytes follow its end",
        }
    }
}
