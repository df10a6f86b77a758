//! What real Nix does, asked on the spot: these tests run `nix-store` and `nix`, and fail without them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use data_encoding::HEXLOWER;
use larder_protocol::{
    NarHash, SigningKey, StorePath,
    chunk::{CutChunk, Cutter, FrameEncoder, FrameError, fill_holes},
    nar::{NarChecker, dump},
    narinfo::NarInfo,
    signature::fingerprint,
};
use sha2::{Digest as _, Sha256};

use crate::{bytes::Random, trees};

/// Runs a program to its end and returns what it printed.
pub fn run(program: &str, configure: impl FnOnce(&mut Command)) -> Vec<u8> {
    let mut command = Command::new(program);
    configure(&mut command);
    let output = command.output().unwrap_or_else(|error| panic!("{program} (Debian: nix-bin): {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn dumped(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    let len = dump(path, |bytes| {
        nar.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    assert_eq!(len, nar.len() as u64);
    nar
}

#[track_caller]
fn assert_dumps_as_nix_does(path: &Path) {
    let ours = dumped(path);
    let nix = run("nix-store", |nix| {
        nix.arg("--dump").arg(path);
    });
    assert!(ours == nix, "{} is dumped in another way than by Nix", path.display());
    let mut checker = NarChecker::default();
    checker.feed(&ours).unwrap();
    checker.finish().unwrap();
}

#[test]
fn dumps_a_tree_as_nix_does() {
    let scratch = tempfile::tempdir().unwrap();
    trees::make_tree(scratch.path());
    assert_dumps_as_nix_does(scratch.path());
}

#[test]
fn dumps_single_files_as_nix_does() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("it");
    // Around the padding, and around the pieces in which files are read.
    for len in [0, 1, 7, 8, 9, (256 << 10) - 113, (256 << 10) - 112, 256 << 10, (256 << 10) + 1, 3_000_000] {
        fs::write(&path, vec![7; len]).unwrap();
        assert_dumps_as_nix_does(&path);
    }
    fs::remove_file(&path).unwrap();
    symlink("a target", &path).unwrap();
    assert_dumps_as_nix_does(&path);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_dumps_as_nix_does(&path);
}

/// A store, keys and binary caches for one test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn store(&self) -> String {
        format!("local?root={}", self.path("store").display())
    }

    fn cache(&self) -> String {
        format!("file://{}", self.path("cache").display())
    }

    /// Runs `nix ARGS`, knowing of nothing but what is here.
    pub fn nix(&self, args: &[&str]) -> String {
        let output = run("nix", |nix| {
            nix.args(["--extra-experimental-features", "nix-command", "--option", "build-users-group", ""]);
            nix.args(args).env("HOME", self.0.path()).env_remove("NIX_REMOTE").env_remove("NIX_CONFIG");
        });
        String::from_utf8(output).unwrap()
    }

    /// A file that refers to twelve others; a key that has signed all of them.
    fn signed_closure(&self) -> (StorePath, SigningKey) {
        let expression = r#"builtins.toFile "top" (builtins.concatStringsSep " "
            (map (n: builtins.toFile "of-${toString n}" (toString n)) [ 1 2 3 4 5 6 7 8 9 10 11 12 ]))"#;
        let path = self.nix(&["eval", "--store", &self.store(), "--raw", "--expr", expression]);
        let key = self.path("key");
        run("nix-store", |nix| {
            nix.args(["--generate-binary-cache-key", "test-1"]).arg(&key).arg(self.path("public"));
        });
        self.nix(&["store", "sign", "--store", &self.store(), "-k", key.to_str().unwrap(), "-r", &path]);
        let key = fs::read_to_string(key).unwrap().parse().unwrap();
        (StorePath::from_absolute(&path).unwrap(), key)
    }
}

#[test]
fn hashes_as_nix_does() {
    let scratch = tempfile::tempdir().unwrap();
    trees::make_tree(scratch.path());
    let hash = NarHash(Sha256::digest(dumped(scratch.path())).into());
    for (format, ours) in [(&["--base32"][..], hash.base32()), (&[], HEXLOWER.encode(&hash.0))] {
        let nix = run("nix-hash", |nix| {
            nix.args(["--type", "sha256"]).args(format).arg(scratch.path());
        });
        assert_eq!(String::from_utf8(nix).unwrap().trim_end(), ours);
        assert_eq!(format!("sha256:{ours}").parse::<NarHash>().unwrap(), hash);
    }
}

#[test]
fn signs_as_nix_does() {
    let scratch = Scratch::new();
    let (top, key) = scratch.signed_closure();
    assert_eq!(fs::read_to_string(scratch.path("public")).unwrap(), key.public_key().to_string());
    assert_eq!(fs::read_to_string(scratch.path("key")).unwrap(), key.to_secret_text());
    let infos = scratch.nix(&["path-info", "--store", &scratch.store(), "--json", "-r", &top.absolute()]);
    let infos: Vec<serde_json::Value> = serde_json::from_str(&infos).unwrap();
    assert_eq!(infos.len(), 13);
    for info in infos {
        let path = StorePath::from_absolute(info["path"].as_str().unwrap()).unwrap();
        let nar_hash: NarHash = info["narHash"].as_str().unwrap().parse().unwrap();
        let nar = dumped(&scratch.path("store").join(&path.absolute()[1..]));
        assert_eq!(NarHash(Sha256::digest(&nar).into()), nar_hash);
        assert_eq!(info["narSize"], nar.len());
        let listed: Vec<StorePath> = info["references"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| StorePath::from_absolute(path.as_str().unwrap()).unwrap())
            .collect();
        let mut references = listed.clone();
        references.sort();
        assert_eq!(references, listed, "Nix has references in another order");
        references.reverse();
        let signature = key.sign(&fingerprint(&path, &nar_hash, nar.len() as u64, &references));
        assert_eq!(info["signatures"], serde_json::json!([signature.to_string()]));
    }
}

#[test]
fn reads_and_writes_narinfos_as_nix_does() {
    let scratch = Scratch::new();
    let (top, key) = scratch.signed_closure();
    for compression in ["zstd", "xz", "none"] {
        let cache = format!("{}-{compression}", scratch.cache());
        let to = format!("{cache}?compression={compression}");
        scratch.nix(&["copy", "--from", &scratch.store(), "--to", &to, &top.absolute()]);
        let mut narinfos = 0;
        for file in fs::read_dir(cache.strip_prefix("file://").unwrap()).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "narinfo") {
                let text = fs::read_to_string(&file).unwrap();
                let info = NarInfo::parse(&text).unwrap();
                assert_eq!(info.to_string(), text);
                assert_eq!(info.compression.as_deref(), Some(compression));
                assert_eq!(file.file_stem().unwrap().to_str().unwrap(), info.path.hash().to_string());
                assert!(key.public_key().verifies(&info.fingerprint(), &info.signatures[0]));
                narinfos += 1;
            }
        }
        assert_eq!(narinfos, 13);
    }
}

/// A cache written by this crate alone, read by Nix with signatures checked.
#[test]
fn nix_reads_frames_one_behind_the_other() {
    let scratch = Scratch::new();
    let mut random = Random(10);
    let [path, other] = ["it", "other"].map(|name| StorePath::new(random.hash(), name).unwrap());
    let tree = scratch.path("tree");
    fs::create_dir(&tree).unwrap();
    trees::make_tree(&tree);
    for n in 0..40 {
        let mut contents = random.bytes(20_000);
        contents.extend_from_slice(format!("{} and {}", path.absolute(), other.absolute()).as_bytes());
        contents.extend_from_slice(&b"text ".repeat(10_000));
        fs::write(tree.join(format!("file-{n}")), contents).unwrap();
    }
    let nar = dumped(&tree);
    let (mut frames, mut holes, mut count) = (Vec::new(), 0, 0);
    let mut encoder = FrameEncoder::default();
    let mut take = |chunk: CutChunk| {
        let mut frame = encoder.encode(&chunk.content, &chunk.holes);
        fill_holes(&mut frame.bytes, frame.holes.iter().map(|hole| hole.frame_offset), &chunk.hashes)?;
        frames.extend_from_slice(&frame.bytes);
        (holes, count) = (holes + chunk.holes.len(), count + 1);
        Ok::<_, FrameError>(())
    };
    let mut cutter = Cutter::new([path.hash(), other.hash()]);
    cutter.feed(&nar, &mut take).unwrap();
    cutter.finish(&mut take).unwrap();
    assert!(holes >= 80 && count > 5, "{holes} holes, {count} frames");

    let key = SigningKey::generate("test-2").unwrap();
    let nar_hash = NarHash(Sha256::digest(&nar).into());
    let mut info = NarInfo {
        path: path.clone(),
        url: "nar/it.nar.zst".into(),
        compression: Some("zstd".into()),
        file_hash: None,
        file_size: Some(frames.len() as u64),
        nar_hash,
        nar_size: nar.len() as u64,
        references: vec![path.clone()],
        deriver: None,
        signatures: Vec::new(),
        ca: None,
    };
    info.signatures.push(key.sign(&info.fingerprint()));
    fs::create_dir_all(scratch.path("cache/nar")).unwrap();
    fs::write(scratch.path("cache/nix-cache-info"), "StoreDir: /nix/store\nPriority: 30\n").unwrap();
    fs::write(scratch.path("cache").join(format!("{}.narinfo", path.hash())), info.to_string()).unwrap();
    fs::write(scratch.path("cache/nar/it.nar.zst"), frames).unwrap();
    let keys = key.public_key().to_string();
    let option = ["--option", "trusted-public-keys", &keys];
    let copy = ["copy", "--from", &scratch.cache(), "--to", &scratch.store(), &path.absolute()];
    scratch.nix(&[&option[..], &copy].concat());
    assert_eq!(dumped(&scratch.path("store").join(&path.absolute()[1..])), nar);
}
