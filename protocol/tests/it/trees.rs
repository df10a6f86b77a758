//! Trees to dump.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
};

/// Makes a tree with one of each thing that a NAR may hold.
pub fn make_tree(root: &Path) {
    let dir = |path: &str| fs::create_dir_all(root.join(path)).unwrap();
    let file = |path: &str, contents: &[u8]| fs::write(root.join(path), contents).unwrap();
    dir("bin");
    dir("empty-dir");
    dir("a/b/c");
    file("bin/hello", b"#!/bin/sh\necho hello\n");
    for (path, mode) in [("bin/hello", 0o755), ("bin", 0o755)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    // Only the user's bit counts.
    file("group-executable", b"x");
    fs::set_permissions(root.join("group-executable"), fs::Permissions::from_mode(0o654)).unwrap();
    file("empty", b"");
    file("a/b/c/deep", b"deep");
    for len in [1, 7, 8, 9, 15, 16, 17] {
        file(&format!("size-{len}"), &vec![b'x'; len]);
    }
    // Sorted by bytes, not by components nor by letters: "a" < "a-b" < "a.b" < "a0" < "aB".
    for name in ["a-b", "a.b", "a0", "aB", "B", ".hidden", "ä"] {
        file(name, name.as_bytes());
    }
    fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"legal").unwrap();
    symlink("bin/hello", root.join("link")).unwrap();
    symlink("/nix/store/nowhere", root.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), root.join("a/link-not-utf8")).unwrap();
}
