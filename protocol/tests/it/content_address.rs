//! Content addresses, as real Nix gives them.

use std::{fs, path::Path};

use data_encoding::HEXLOWER;
use larder_protocol::{
    ContentAddress, StorePath,
    content_address::{ContentChecker, Misfit},
};
use sha2::{Digest as _, Sha256};

use crate::nix::{Scratch, dumped, run};

/// What Nix says of a path: itself, its references, its content address.
struct Addressed {
    path: StorePath,
    references: Vec<StorePath>,
    address: ContentAddress,
    nar: Vec<u8>,
}

impl Addressed {
    fn of(scratch: &Scratch, path: &str) -> Self {
        let info = scratch.nix(&["path-info", "--store", &scratch.store(), "--json", path]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let path = StorePath::from_absolute(path).unwrap();
        let references = info[0]["references"].as_array().unwrap().iter();
        let mut references: Vec<StorePath> =
            references.map(|path| StorePath::from_absolute(path.as_str().unwrap()).unwrap()).collect();
        references.sort();
        let nar = dumped(&scratch.path("store").join(&path.absolute()[1..]));
        Self { path, references, address: info[0]["ca"].as_str().unwrap().parse().unwrap(), nar }
    }

    fn check_contents(&self, nar: &[u8], piece: usize) -> Result<(), Misfit> {
        let mut checker = ContentChecker::new(&self.address, &self.path)?;
        nar.chunks(piece).for_each(|piece| checker.feed(piece));
        checker.finish()
    }
}

/// Adds files to a store in every way in which Nix gives content addresses.
fn addressed(scratch: &Scratch) -> Vec<Addressed> {
    let file = scratch.path("file");
    fs::write(&file, b"some bytes\n".repeat(1000)).unwrap();
    let tree = scratch.path("tree");
    fs::create_dir(&tree).unwrap();
    crate::trees::make_tree(&tree);
    let nix_store = |args: &[&str], file: &Path| {
        let path = run("nix-store", |nix| {
            nix.args(["--store", &scratch.store()]).args(args).arg(file);
        });
        Addressed::of(scratch, String::from_utf8(path).unwrap().trim_end())
    };
    let mut all = vec![nix_store(&["--add"], &file), nix_store(&["--add"], &tree)];
    for algorithm in ["md5", "sha1", "sha256", "sha512"] {
        all.push(nix_store(&["--add-fixed", algorithm], &file));
        all.push(nix_store(&["--recursive", "--add-fixed", algorithm], &tree));
    }
    let text = r#"builtins.toFile "text" "${builtins.toFile "b" "2"} ${builtins.toFile "a" "1"}""#;
    let text = scratch.nix(&["eval", "--store", &scratch.store(), "--raw", "--expr", text]);
    all.push(Addressed::of(scratch, &text));
    all
}

#[test]
fn are_checked_as_nix_gives_them() {
    let scratch = Scratch::new();
    let all = addressed(&scratch);
    assert_eq!(all.len(), 11);
    assert_eq!(all[10].references.len(), 2);
    for it in &all {
        it.address
            .check_path(&it.path, &it.references)
            .unwrap_or_else(|error| panic!("{}: {error}", it.address));
        for piece in [1, 7, 100, usize::MAX] {
            assert_eq!(it.check_contents(&it.nar, piece), Ok(()), "{}", it.address);
        }

        let mut other = it.nar.clone();
        let byte = other.iter().rposition(|byte| *byte == b'\n' || *byte == b'1').unwrap();
        other[byte] ^= 1;
        assert_eq!(it.check_contents(&other, 100), Err(Misfit::Contents), "{}", it.address);
        assert_eq!(it.check_contents(&it.nar[..90], 100), Err(Misfit::Contents), "{}", it.address);

        let named = StorePath::new(it.path.hash(), "another-name").unwrap();
        assert!(matches!(it.address.check_path(&named, &it.references), Err(Misfit::Path(_))));
        let foreign: StorePath = "s66mzxpvicwk07gjbjfw9izjfa797vsw-foreign".parse().unwrap();
        assert!(it.address.check_path(&it.path, &[foreign]).is_err());
        for address in all.iter().filter(|other| other.path != it.path).map(|other| &other.address) {
            assert!(address.check_path(&it.path, &it.references).is_err(), "{} {address}", it.address);
        }
    }
}

/// An executable file has the bytes of one that is not, but another NAR.
#[test]
fn an_executable_is_not_a_file_by_its_bytes() {
    let scratch = Scratch::new();
    let flat =
        addressed(&scratch).into_iter().find(|it| it.address.to_string().starts_with("fixed:sha")).unwrap();
    let file = scratch.path("file");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&file, permissions).unwrap();
    assert_eq!(flat.check_contents(&dumped(&file), 100), Err(Misfit::Contents));
}

/// What a path says of itself is left out of its content address.
#[test]
fn may_leave_out_the_paths_own_name() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let built: StorePath = "s66mzxpvicwk07gjbjfw9izjfa797vsw-own".parse().unwrap();
    let file = scratch.path("store").join(&built.absolute()[1..]);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("I am {0}\n", built.absolute()).repeat(3)).unwrap();
    let nar = dumped(&file);
    let built = built.absolute();
    let hash = HEXLOWER.encode(&Sha256::digest(&nar));
    // As `nix-store --dump-db` writes it: hash, size, deriver, references.
    let row = scratch.path("row");
    fs::write(&row, format!("{built}\n{hash}\n{}\n\n1\n{built}\n", nar.len())).unwrap();
    run("nix-store", |nix| {
        nix.args(["--store", &store, "--load-db"]).stdin(fs::File::open(&row).unwrap());
    });
    let made = scratch.nix(&["store", "make-content-addressed", "--store", &store, "--json", &built]);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let own = Addressed::of(&scratch, made["rewrites"][&built].as_str().unwrap());
    assert_eq!(own.references, std::slice::from_ref(&own.path));
    assert_eq!(own.address.check_path(&own.path, &own.references), Ok(()));
    for piece in [1, 31, 100, usize::MAX] {
        assert_eq!(own.check_contents(&own.nar, piece), Ok(()));
    }
    let mut zeroed = own.nar.clone();
    let name = own.path.hash().digits();
    let at = zeroed.windows(name.len()).position(|window| window == name).unwrap();
    zeroed[at..at + name.len()].fill(0);
    assert_eq!(own.check_contents(&zeroed, 100), Err(Misfit::Contents));
    assert!(own.address.check_path(&own.path, &[]).is_err());
}
