//! NARs: what is written, and what is refused.

use std::{
    fs, io,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};

use larder_protocol::nar::{DumpError, NarChecker, NarError, dump};
use sha2::{Digest as _, Sha256};

fn string(value: &[u8]) -> Vec<u8> {
    let mut out = (value.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(value);
    out.resize(8 + value.len().next_multiple_of(8), 0);
    out
}

/// The NAR of these strings, the magic before them.
fn nar(strings: &[&[u8]]) -> Vec<u8> {
    let mut out = string(b"nix-archive-1");
    out.extend(strings.iter().flat_map(|value| string(value)));
    out
}

/// A directory of files that hold their names.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut strings: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
    for name in names {
        strings.extend([b"entry", &b"("[..], b"name", name, b"node", b"(", b"type", b"regular"]);
        strings.extend([b"contents", *name, b")", b")"]);
    }
    strings.push(b")");
    nar(&strings)
}

fn check_in_pieces(nar: &[u8], len: usize) -> Result<(), NarError> {
    let mut checker = NarChecker::default();
    nar.chunks(len).try_for_each(|piece| checker.feed(piece))?;
    checker.finish()
}

/// The checker's verdict, which must not depend on the pieces in which the bytes come.
#[track_caller]
fn check(nar: &[u8]) -> Result<(), NarError> {
    let verdict = check_in_pieces(nar, nar.len().max(1));
    for len in [1, 2, 3, 7, 8, 9, 31, 64] {
        assert_eq!(check_in_pieces(nar, len), verdict, "in pieces of {len}");
    }
    verdict
}

#[track_caller]
fn assert_refused(nar: &[u8], reason: &str) {
    let error = check(nar).unwrap_err();
    assert!(error.reason.contains(reason), "{error}");
}

fn dumped(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    dump(path, |bytes| {
        nar.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    nar
}

#[test]
fn writes_the_pinned_tree() {
    let scratch = tempfile::tempdir().unwrap();
    crate::trees::make_tree(scratch.path());
    let nar = dumped(scratch.path());
    // nix-hash --type sha256 TREE (Nix 2.8.0); tests/nix.rs compares the bytes.
    let hash = "e8dbc9ada725f14162b7cfbedd6eec33929212c48e648d6ec12bce6c30abe030";
    assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&nar)), hash);
    assert_eq!(check(&nar), Ok(()));
}

#[test]
fn accepts_what_is_legal() {
    for legal in [
        nar(&[b"(", b"type", b"regular", b"contents", b"", b")"]),
        nar(&[b"(", b"type", b"regular", b"contents", b"x", b")"]),
        nar(&[b"(", b"type", b"regular", b"executable", b"", b"contents", b"12345678", b")"]),
        nar(&[b"(", b"type", b"symlink", b"target", b"/nix/store", b")"]),
        nar(&[b"(", b"type", b"symlink", b"target", &[b'x'; 4095], b")"]),
        directory(&[]),
        directory(&[b"A", b"a", b"a-", b"a.", b"aa", b"b", b"\xff\xfe"]),
        directory(&[b"...", b".a", &[b'x'; 255]]),
    ] {
        assert_eq!(check(&legal), Ok(()), "{}", legal.escape_ascii());
    }
}

#[test]
fn refuses_bad_names() {
    assert_refused(&directory(&[b""]), "empty");
    assert_refused(&directory(&[b"."]), "empty, . or ..");
    assert_refused(&directory(&[b".."]), "empty, . or ..");
    assert_refused(&directory(&[b"a/b"]), "slash");
    assert_refused(&directory(&[b"/"]), "slash");
    assert_refused(&directory(&[b"a\0"]), "NUL");
    assert_refused(&directory(&[b"b", b"a"]), "out of order");
    assert_refused(&directory(&[b"aa", b"a"]), "out of order");
    assert_refused(&directory(&[b"\xff", b"a"]), "out of order");
    assert_refused(&directory(&[b"a", b"a"]), "twice");
    assert_refused(&directory(&[&[b'x'; 256]]), "longer than 255");
}

#[test]
fn forgets_no_name_over_a_nested_directory() {
    let nested = |last: &[u8]| {
        let file: [&[u8]; 6] = [b"(", b"type", b"regular", b"contents", b"", b")"];
        let mut strings: Vec<&[u8]> =
            vec![b"(", b"type", b"directory", b"entry", b"(", b"name", b"m", b"node"];
        strings.extend([b"(", &b"type"[..], b"directory", b"entry", b"(", b"name", b"z", b"node"]);
        strings.extend(file);
        strings.extend([b")", &b")"[..], b")", b"entry", b"(", b"name", last, b"node"]);
        strings.extend(file);
        strings.extend([&b")"[..], b")"]);
        nar(&strings)
    };
    assert_eq!(check(&nested(b"n")), Ok(()));
    assert_refused(&nested(b"m"), "twice");
    assert_refused(&nested(b"a"), "out of order");
}

#[test]
fn refuses_other_structures() {
    for (strings, reason) in [
        (&[&b")"[..]][..], "\"(\""),
        (&[b"(", b"kind"], "\"type\""),
        (&[b"(", b"type", b"device"], "neither"),
        (&[b"(", b"type", b"regular", b")"], "\"contents\""),
        (&[b"(", b"type", b"regular", b"executable", b"x"], "empty string"),
        (&[b"(", b"type", b"regular", b"executable", b"", b"executable"], "\"contents\""),
        (&[b"(", b"type", b"regular", b"contents", b"x", b"contents"], "\")\""),
        (&[b"(", b"type", b"regular", b"contents", b"x", b"executable", b""], "\")\""),
        (&[b"(", b"type", b"symlink", b"contents"], "\"target\""),
        (&[b"(", b"type", b"symlink", b"target", b""], "empty"),
        (&[b"(", b"type", b"symlink", b"target", b"a\0b"], "NUL"),
        (&[b"(", b"type", b"symlink", b"target", b"a", b"target"], "\")\""),
        (&[b"(", b"type", b"symlink", b"target", &[b'x'; 4096]], "4,095"),
        (&[b"(", b"type", b"directory", b"node"], "\"entry\""),
        (&[b"(", b"type", b"directory", b"entry", b"(", b"node"], "\"name\""),
        (&[b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b")"], "\"node\""),
        (&[b"(", b"type", b"regular", b"contents", b"", b")", b"("], "follow"),
    ] {
        assert_refused(&nar(strings), reason);
    }
    assert_refused(&string(b"nix-archive-2"), "nix-archive-1");
    assert_refused(b"", "too early");
}

#[test]
fn refuses_every_truncation_and_every_byte_more() {
    let whole = directory(&[b"a", b"b", b"name of fifteen"]);
    for end in 0..whole.len() {
        assert_refused(&whole[..end], "too early");
    }
    for more in [&b"\0"[..], b"x", &[0; 8], &whole] {
        assert_refused(&[&whole, more].concat(), "follow");
    }
}

#[test]
fn refuses_padding_that_is_not_zero_and_lengths_beyond_bounds() {
    let whole = nar(&[b"(", b"type", b"regular", b"contents", b"x", b")"]);
    // The byte after each string's last one.
    for at in [21, 33, 52, whole.len() - 17, whole.len() - 23] {
        let mut wrong = whole.clone();
        wrong[at] = 1;
        assert_refused(&wrong, "padding is not zero");
    }
    let head = nar(&[b"(", b"type", b"regular", b"contents"]);
    for len in [u64::MAX, 1 << 63] {
        assert_refused(&[&head[..], &len.to_le_bytes()].concat(), "larger than");
        assert_refused(&len.to_le_bytes(), "nix-archive-1");
    }
    // A file that ends where an overflow would end it.
    assert_refused(&[&head[..], &(i64::MAX as u64).to_le_bytes(), &string(b")")].concat(), "too early");
}

#[test]
fn says_where() {
    let error = check(&directory(&[b"b", b"a"])).unwrap_err();
    // Where "a" begins: magic, "(", "type", "directory"; then "entry" to ")" of "b"; "entry", "(", "name".
    assert_eq!(error.offset, (24 + 16 + 16 + 24) + 16 * 12 + 16 * 3);
    let mut checker = NarChecker::default();
    let first = checker.feed(b"12345678").unwrap_err();
    assert_eq!(first.offset, 0);
    assert_eq!(checker.feed(b"more"), Err(first.clone()), "an error stays");
    assert_eq!(checker.finish(), Err(first));
}

/// A tree of single directories.
fn deep(depth: usize) -> Vec<u8> {
    let mut nar = nar(&[b"(", b"type", b"directory"]);
    let entry: Vec<u8> = [&b"entry"[..], b"(", b"name", b"d", b"node", b"(", b"type", b"directory"]
        .iter()
        .flat_map(|value| string(value))
        .collect();
    nar.extend(entry.repeat(depth - 1));
    nar.extend(string(b")").repeat(2 * depth - 1));
    nar
}

#[test]
fn bounds_the_depth_beyond_what_nix_can_store() {
    assert_eq!(check_in_pieces(&deep(4096), 1000), Ok(()));
    let error = check_in_pieces(&deep(4097), 1000).unwrap_err();
    assert!(error.reason.contains("nested"), "{error}");
}

#[test]
fn dumps_directories_as_deep_as_a_path_may_be_long() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("d");
    let depth = (4095 - root.as_os_str().len()) / 2;
    let deepest = root.join("d/".repeat(depth - 1));
    fs::create_dir_all(&deepest).unwrap();
    assert_eq!(dumped(&root), deep(depth));
}

#[test]
fn dumps_no_special_files() {
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for path in [scratch.path(), &socket] {
        let error = dump(path, |_| Ok(())).unwrap_err();
        assert!(matches!(&error, DumpError::Kind { path } if *path == socket), "{error}");
    }
}

#[test]
fn names_the_file_that_cannot_be_read() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    let error = dump(&missing, |_| Ok(())).unwrap_err();
    assert!(matches!(&error, DumpError::Read { path, .. } if *path == missing), "{error}");
    // A dangling symlink is a symlink.
    symlink("nowhere", &missing).unwrap();
    assert!(dump(&missing, |_| Ok(())).is_ok());
}

#[test]
fn notices_a_file_that_changes_its_length() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("log");
    for (before, then) in [(600_000, 599_999), (600_000, 600_001), (600_000, 900_000), (600_000, 0)] {
        fs::write(&path, vec![1; before]).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        // With the first piece, while the file is read.
        let error = dump(&path, |_| file.set_len(then)).unwrap_err();
        assert!(matches!(&error, DumpError::Changed { path: changed } if *changed == path), "{error}");
    }
}

#[test]
fn ends_when_nobody_takes_the_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let error = dump(scratch.path(), |_| Err(io::Error::other("full"))).unwrap_err();
    assert_eq!(error.to_string(), "full");
}

#[test]
fn dumps_a_sparse_file_of_5_gb() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("sparse");
    let len = 5_000_000_001;
    fs::File::create(&path).unwrap().set_len(len).unwrap();
    let mut checker = NarChecker::default();
    let mut largest = 0;
    let dumped = dump(&path, |bytes| {
        largest = largest.max(bytes.len());
        checker.feed(bytes).map_err(io::Error::other)
    });
    assert_eq!(dumped.unwrap(), 96 + 16 + len.next_multiple_of(8));
    assert_eq!(largest, 256 << 10);
    checker.finish().unwrap();
}
