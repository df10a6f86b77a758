//! The narinfo: what a binary cache says of a path (`libstore/nar-info.cc`).

use std::fmt;

use crate::{NarHash, Signature, StorePath, signature::fingerprint};

/// A narinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// `StorePath`.
    pub path: StorePath,
    /// `URL`, relative to the cache's.
    pub url: String,
    /// `Compression`; `None` where the line is missing, which Nix reads as bzip2.
    pub compression: Option<String>,
    /// `FileHash`, as it stands.
    pub file_hash: Option<String>,
    /// `FileSize`, in bytes.
    pub file_size: Option<u64>,
    /// `NarHash`.
    pub nar_hash: NarHash,
    /// `NarSize`, in bytes; never zero.
    pub nar_size: u64,
    /// `References`.
    pub references: Vec<StorePath>,
    /// `Deriver`.
    pub deriver: Option<StorePath>,
    /// `Sig`, as many as there are.
    pub signatures: Vec<Signature>,
    /// `CA`.
    pub ca: Option<String>,
}

/// A narinfo that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed narinfo: {0}")]
pub struct InvalidNarInfo(String);

impl NarInfo {
    /// What its signatures sign.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.path, &self.nar_hash, self.nar_size, &self.references)
    }

    /// Reads a narinfo.
    ///
    /// # Errors
    /// Names the line or the key that is wrong or missing.
    pub fn parse(text: &str) -> Result<Self, InvalidNarInfo> {
        let invalid =
            |line: &str| InvalidNarInfo(format!("{:?}", line.chars().take(200).collect::<String>()));
        let missing = |key: &str| InvalidNarInfo(format!("{key} is missing"));
        let (mut path, mut url, mut compression, mut file_hash, mut file_size) =
            (None, None, None, None, None);
        let (mut nar_hash, mut nar_size, mut deriver, mut ca) = (None, None, None, None);
        let (mut references, mut signatures) = (Vec::new(), Vec::new());
        // A last line without its newline may have been cut short. Nix refuses it too.
        let lines =
            text.strip_suffix('\n').ok_or_else(|| InvalidNarInfo("its last line has no end".into()))?;
        for line in lines.split('\n') {
            let (key, value) = line
                .split_once(": ")
                .or_else(|| line.strip_suffix(':').map(|key| (key, "")))
                .ok_or_else(|| invalid(line))?;
            match key {
                "StorePath" => path = Some(StorePath::from_absolute(value).map_err(|_| invalid(line))?),
                "URL" => url = Some(value.to_owned()),
                "Compression" => compression = Some(value.to_owned()),
                "FileHash" => file_hash = Some(value.to_owned()),
                "FileSize" => file_size = Some(value.parse().map_err(|_| invalid(line))?),
                "NarHash" => nar_hash = Some(value.parse().map_err(|_| invalid(line))?),
                "NarSize" => nar_size = Some(value.parse().map_err(|_| invalid(line))?),
                "References" if !references.is_empty() => {
                    return Err(InvalidNarInfo("it has more than one References".into()));
                }
                "References" => {
                    references = value
                        .split_ascii_whitespace()
                        .map(|reference| reference.parse().map_err(|_| invalid(line)))
                        .collect::<Result<_, _>>()?;
                }
                // Nix writes a deriver that it does not know so.
                "Deriver" if value != "unknown-deriver" => {
                    deriver = Some(value.parse().map_err(|_| invalid(line))?);
                }
                // Nix passes over a signature in a format that it does not know.
                "Sig" => signatures.extend(value.parse()),
                "CA" if ca.is_some() => return Err(InvalidNarInfo("it has more than one CA".into())),
                "CA" => ca = Some(value.to_owned()).filter(|ca| !ca.is_empty()),
                _ => {}
            }
        }
        Ok(Self {
            path: path.ok_or_else(|| missing("StorePath"))?,
            url: url.filter(|url| !url.is_empty()).ok_or_else(|| missing("URL"))?,
            compression,
            file_hash,
            file_size,
            nar_hash: nar_hash.ok_or_else(|| missing("NarHash"))?,
            nar_size: nar_size.filter(|size| *size > 0).ok_or_else(|| missing("NarSize"))?,
            references,
            deriver,
            signatures,
            ca,
        })
    }
}

impl fmt::Display for NarInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "StorePath: {}", self.path.absolute())?;
        writeln!(f, "URL: {}", self.url)?;
        if let Some(compression) = &self.compression {
            writeln!(f, "Compression: {compression}")?;
        }
        if let Some(file_hash) = &self.file_hash {
            writeln!(f, "FileHash: {file_hash}")?;
        }
        if let Some(file_size) = self.file_size {
            writeln!(f, "FileSize: {file_size}")?;
        }
        writeln!(f, "NarHash: {}", self.nar_hash)?;
        writeln!(f, "NarSize: {}", self.nar_size)?;
        f.write_str("References:")?;
        for reference in &self.references {
            write!(f, " {reference}")?;
        }
        // Nix wants the blank behind the colon even where nothing follows it.
        f.write_str(if self.references.is_empty() { " \n" } else { "\n" })?;
        if let Some(deriver) = &self.deriver {
            writeln!(f, "Deriver: {deriver}")?;
        }
        for signature in &self.signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        if let Some(ca) = &self.ca {
            writeln!(f, "CA: {ca}")?;
        }
        Ok(())
    }
}
