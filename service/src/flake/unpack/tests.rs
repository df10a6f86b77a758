use std::{
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use larder_protocol::nar::{NarChecker, dump};
use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;
use crate::flake::bounds::Wanted;

fn bounds(unpacked: u64) -> Bounds {
    Bounds { unpacked, until: Instant::now() + Duration::from_secs(600), gone: Default::default() }
}

fn unpacked_within(packed: &[u8], bounds: &Bounds) -> Result<Vec<u8>, UnpackError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(packed).unwrap();
    let contents = tempfile::tempfile().unwrap();
    let tree = unpack(&file, &contents, bounds)?;
    let mut nar = Vec::new();
    let written = tree.write_nar(&contents, bounds, |bytes| {
        nar.extend_from_slice(bytes);
        Ok(())
    })?;
    assert_eq!(written, nar.len() as u64);
    let mut checker = NarChecker::default();
    checker.feed(&nar).unwrap();
    checker.finish().unwrap();
    Ok(nar)
}

fn unpacked(packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    unpacked_within(packed, &bounds(100 << 20))
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

fn run(program: &str, configure: impl FnOnce(&mut Command)) -> Vec<u8> {
    let mut command = Command::new(program);
    configure(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An entry with any name, as a stranger may make it: type, name, target, contents.
type Made<'a> = (EntryType, &'a [u8], &'a [u8], &'a [u8]);

fn tar_of(entries: &[Made<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (kind, name, target, contents) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(*kind);
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(contents);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

#[test]
fn gives_the_nar_of_what_tar_unpacks() {
    let scratch = tempfile::tempdir().unwrap();
    let top = scratch.path().join("repo-0123");
    let long = "long-".repeat(45);
    fs::create_dir_all(top.join("empty")).unwrap();
    fs::create_dir_all(top.join(&long).join(&long)).unwrap();
    for (name, contents) in
        [("b", ""), ("B", "upper"), ("a.b", "x"), ("a-b", "y"), ("ä", "utf-8"), ("big", &"z".repeat(700_001))]
    {
        fs::write(top.join(name), contents).unwrap();
    }
    fs::create_dir(top.join("a")).unwrap();
    fs::write(top.join("a/inner"), "inner").unwrap();
    fs::write(top.join(&long).join(&long).join("deep"), "deep").unwrap();
    fs::hard_link(top.join("big"), top.join("linked")).unwrap();
    std::os::unix::fs::symlink("../outside/of/all", top.join("link")).unwrap();
    std::os::unix::fs::symlink(&long[..120], top.join("long-link")).unwrap();
    fs::write(top.join("script"), "#!/bin/sh\n").unwrap();
    run("chmod", |chmod| {
        chmod.arg("0755").arg(top.join("script"));
    });
    // Executable, but not for its owner: to Nix it is not.
    run("chmod", |chmod| {
        chmod.arg("0611").arg(top.join("b"));
    });
    let expected = dumped(&top);
    for format in ["gnu", "pax", "posix"] {
        for packer in ["none", "gzip", "xz -9", "zstd", "zstd --ultra -21"] {
            let file = scratch.path().join("archive");
            run("tar", |tar| {
                tar.arg("-C").arg(scratch.path()).arg(format!("--format={format}"));
                if packer != "none" {
                    tar.arg(format!("--use-compress-program={packer}"));
                }
                tar.arg("-cf").arg(&file).arg("repo-0123");
            });
            let nar = unpacked(&fs::read(&file).unwrap())
                .unwrap_or_else(|error| panic!("{format} {packer}: {error}"));
            assert!(nar == expected, "{format} {packer}");
        }
    }
}

#[test]
fn a_git_archive_with_its_global_header_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        run("git", |git| {
            git.current_dir(scratch.path())
                .args(["-c", "user.name=a", "-c", "user.email=a@b.c"])
                .args(arguments);
        })
    };
    git(&["init", "-q", "repo"]);
    fs::write(scratch.path().join("repo/flake.nix"), "{ }").unwrap();
    git(&["-C", "repo", "add", "."]);
    git(&["-C", "repo", "commit", "-qm", "x"]);
    let archive = git(&["-C", "repo", "archive", "--format=tar.gz", "--prefix=repo-1/", "HEAD"]);
    fs::remove_dir_all(scratch.path().join("repo/.git")).unwrap();
    assert!(unpacked(&archive).unwrap() == dumped(&scratch.path().join("repo")));
}

#[test]
fn one_top_folder_is_left_out_and_no_more() {
    let one = unpacked(&tar_of(&[(FILE, b"top/inner/x", b"", b"1")])).unwrap();
    let none = unpacked(&tar_of(&[
        (DIRECTORY, b"./", b"", b""),
        (FILE, b"./inner/x", b"", b"1"),
        (FILE, b"y", b"", b""),
    ]));
    let inner_alone =
        unpacked(&tar_of(&[(FILE, b"inner/x", b"", b"1"), (DIRECTORY, b"z/", b"", b"")])).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("inner")).unwrap();
    fs::write(scratch.path().join("inner/x"), "1").unwrap();
    assert!(one == dumped(scratch.path()));
    fs::write(scratch.path().join("y"), "").unwrap();
    assert!(none.unwrap() == dumped(scratch.path()));
    fs::remove_file(scratch.path().join("y")).unwrap();
    fs::create_dir(scratch.path().join("z")).unwrap();
    assert!(inner_alone == dumped(scratch.path()));
}

#[test]
fn archives_that_lead_out_of_themselves_are_refused() {
    let long = [b'x'; 99];
    let deep: Vec<u8> = b"d/".repeat(49);
    let refused: &[&[Made<'_>]] = &[
        &[(FILE, b"/etc/passwd", b"", b"x")],
        &[(FILE, b"../x", b"", b"x")],
        &[(FILE, b"a/../../x", b"", b"x")],
        &[(FILE, b"a/..", b"", b"x")],
        &[(SYMLINK, b"a", b"/etc", b""), (FILE, b"a/passwd", b"", b"x")],
        &[(SYMLINK, b"a", b".", b""), (SYMLINK, b"a/b", b"x", b"")],
        &[(FILE, b"a", b"", b""), (FILE, b"a/b", b"", b"x")],
        &[(DIRECTORY, b"a", b"", b""), (FILE, b"a", b"", b"x")],
        &[(FILE, b"a", b"", b""), (DIRECTORY, b"a", b"", b"")],
        &[(LINK, b"a", b"/etc/passwd", b"")],
        &[(LINK, b"a", b"../x", b"")],
        &[(LINK, b"a", b"b", b"")],
        &[(DIRECTORY, b"d", b"", b""), (LINK, b"a", b"d", b"")],
        &[(SYMLINK, b"d", b"/etc", b""), (LINK, b"a", b"d/passwd", b"")],
        &[(SYMLINK, b"a", b"", b"")],
        &[(EntryType::Char, b"null", b"", b"")],
        &[(EntryType::Block, b"disk", b"", b"")],
        &[(EntryType::Fifo, b"pipe", b"", b"")],
        &[(EntryType::GNUSparse, b"sparse", b"", b"x")],
        &[(EntryType::XHeader, b"x", b"", b"19 GNU.sparse.a=1\n"), (FILE, b"a", b"", b"x")],
        &[(EntryType::XHeader, b"x", b"", b"10 size=9\n"), (FILE, b"a", b"", b"x")],
        &[(EntryType::XHeader, b"x", b"", b"13 path=../a\n"), (FILE, b"a", b"", b"x")],
        &[(EntryType::XHeader, b"x", b"", b"nonsense\n"), (FILE, b"a", b"", b"x")],
        &[(EntryType::GNULongName, b"x", b"", &[b'n'; 70_000]), (FILE, b"a", b"", b"x")],
        &[(EntryType::GNULongName, b"x", b"", &[b'n'; 256]), (FILE, b"a", b"", b"x")],
        &[(EntryType::GNULongLink, b"x", b"", &[b'n'; 4096]), (SYMLINK, b"a", b"b", b"")],
        &[(EntryType::GNULongName, b"x", b"", &b"d/".repeat(129)), (FILE, b"a", b"", b"x")],
        &[(DIRECTORY, b"./", b"", b"")],
        &[],
    ];
    for entries in refused {
        let result = unpacked(&tar_of(entries));
        assert!(result.is_err(), "{entries:?}");
    }
    let taken: &[&[Made<'_>]] = &[
        &[(FILE, &long, b"", b"")],
        &[(DIRECTORY, &deep, b"", b"")],
        // What comes later stands.
        &[(FILE, b"a", b"", b"1"), (FILE, b"a", b"", b"2"), (SYMLINK, b"a", b"x", b"")],
        &[(FILE, b"a", b"", b"1"), (LINK, b"b", b"a", b"")],
        &[(SYMLINK, b"a", b"/etc", b"")],
        &[(EntryType::XGlobalHeader, b"x", b"", b"52 comment=x\n"), (FILE, b"a", b"", b"x")],
    ];
    for entries in taken {
        unpacked(&tar_of(entries)).unwrap_or_else(|error| panic!("{entries:?}: {error}"));
    }
}

#[test]
fn bombs_end_at_the_bound() {
    let zeros = vec![0; 30 << 20];
    let tar = tar_of(&[(FILE, b"top/zeros", b"", &zeros)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
    xz.write_all(&tar).unwrap();
    for packed in [gzip.finish().unwrap(), xz.finish().unwrap(), zstd::encode_all(&*tar, 3).unwrap()] {
        assert!(packed.len() < 100_000);
        unpacked_within(&packed, &bounds(31 << 20)).unwrap();
        let error = unpacked_within(&packed, &bounds(29 << 20)).unwrap_err();
        assert!(error.to_string().contains("max_unpacked"), "{error}");
    }
    // A header that says more than there is, and one whose rest never ends.
    let mut cut = tar.clone();
    cut.truncate(1 << 20);
    assert!(unpacked(&cut).is_err());
    // So many names that memory would not do: each directory has the next, as deep as they may be.
    for entries in [149_999, 150_000] {
        let mut many = Vec::new();
        for n in (0..entries).step_by(100) {
            let name = format!("{n}/{}", "d/".repeat(99.min(entries - n - 1)));
            many.push((EntryType::GNULongName, &b"x"[..], &b""[..], name.into_bytes()));
        }
        let named: Vec<_> = many
            .iter()
            .flat_map(|(kind, name, target, contents)| {
                [(*kind, *name, *target, contents.as_slice()), (DIRECTORY, &b"x"[..], &b""[..], &b""[..])]
            })
            .chain([(FILE, &b"f"[..], &b""[..], &b""[..])])
            .collect();
        let refused = unpacked_within(&tar_of(&named), &bounds(1 << 30)).err().map(|error| error.to_string());
        assert_eq!(refused.is_some_and(|error| error.contains("files")), entries == 150_000);
    }
}

/// Gigabytes of links to one file, in an archive that has it once.
#[test]
fn hard_links_count_as_often_as_they_are_written() {
    let names: Vec<String> = (0..20_000).map(|n| format!("top/{n}")).collect();
    let contents = vec![0; 1 << 20];
    let linked = |links: usize| {
        let mut entries: Vec<Made<'_>> = vec![(FILE, b"top/zeros", b"", &contents)];
        entries
            .extend(names[..links].iter().map(|name| (LINK, name.as_bytes(), &b"top/zeros"[..], &b""[..])));
        zstd::encode_all(&*tar_of(&entries), 1).unwrap()
    };
    assert!(unpacked_within(&linked(9), &bounds(10 << 20)).unwrap().len() > 10 << 20);
    for links in [10, names.len()] {
        let packed = linked(links);
        assert!(packed.len() < 1 << 20);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&packed).unwrap();
        // Before a byte of the NAR is written.
        let result = unpack(&file, &tempfile::tempfile().unwrap(), &bounds(12 << 20));
        let error = result.err().map(|error| error.to_string());
        assert_eq!(error.is_some_and(|error| error.contains("max_unpacked")), links > 11, "{links}");
    }
}

#[test]
fn a_nar_is_not_written_longer_than_its_bounds_hold() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&tar_of(&[(FILE, b"top/x", b"", &vec![7; 3 << 20])])).unwrap();
    let contents = tempfile::tempfile().unwrap();
    let wide = bounds(4 << 20);
    let tree = unpack(&file, &contents, &wide).unwrap();
    let written = |bounds: &Bounds, at_first: &dyn Fn()| {
        let mut written = 0;
        let result = tree.write_nar(&contents, bounds, |bytes| {
            written += bytes.len();
            at_first();
            Ok(())
        });
        (written, result)
    };
    let (all, result) = written(&wide, &|| {});
    assert_eq!(result.unwrap(), all as u64);
    let told = |result: Result<u64, UnpackError>, what: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, UnpackError::Archive(_)) && error.to_string().contains(what), "{error}");
    };
    let (some, result) = written(&bounds(1 << 20), &|| {});
    assert!(some <= (1 << 20) + 4096, "{some}");
    told(result, "max_unpacked");
    let (none, result) = written(&Bounds { until: Instant::now(), ..bounds(4 << 20) }, &|| {});
    assert_eq!(none, 0);
    told(result, "too long");
    // Whoever wanted it goes while it is written.
    let gone = bounds(4 << 20);
    let (some, result) = written(&gone, &|| drop(Wanted(gone.gone.clone())));
    assert!(some < 1 << 20, "{some}");
    told(result, "not wanted");
    // What the disk refuses is another thing: it may be tried again.
    let full = tree.write_nar(&contents, &wide, |_| Err(io::ErrorKind::StorageFull.into()));
    assert!(matches!(full, Err(UnpackError::Here(_))));
}

#[test]
fn what_takes_more_memory_than_it_may_is_refused() {
    let tar = tar_of(&[(FILE, b"top/x", b"", &vec![7; 1 << 20])]);
    let mut dictionary = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    dictionary.dict_size(200 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&dictionary);
    let stream = Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc64).unwrap();
    let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    xz.write_all(&tar).unwrap();
    assert!(unpacked(&xz.finish().unwrap()).is_err());
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(27).unwrap();
    zstd.write_all(&tar).unwrap();
    assert!(unpacked(&zstd.finish().unwrap()).is_err());
}

#[test]
fn ends_when_its_time_is_over_or_nobody_wants_it() {
    let tar = tar_of(&[(FILE, b"x", b"", b"")]);
    let late = Bounds { until: Instant::now(), ..bounds(1 << 20) };
    assert!(unpacked_within(&tar, &late).unwrap_err().to_string().contains("too long"));
    let gone = bounds(1 << 20);
    drop(Wanted(gone.gone.clone()));
    assert!(unpacked_within(&tar, &gone).unwrap_err().to_string().contains("not wanted"));
}

proptest! {
    /// Whatever comes, it ends, and what is taken is a NAR.
    #[test]
    fn damaged_archives_do_no_harm(
        at in prop::collection::vec((0usize..6000, any::<u8>()), 0..6),
        end in 0usize..6000,
        packer in 0..4,
    ) {
        let mut tar = tar_of(&[
            (DIRECTORY, b"top/", b"", b""), (FILE, b"top/a", b"", b"some text"), (SYMLINK, b"top/l", b"a", b""),
            (EntryType::XHeader, b"x", b"", b"14 path=top/b\n"), (FILE, b"x", b"", b"more"), (LINK, b"top/c", b"top/a", b""),
        ]);
        let damage = |bytes: &mut Vec<u8>| {
            for (at, byte) in &at {
                let at = at % bytes.len();
                bytes[at] = *byte;
            }
            bytes.truncate(end.max(1));
        };
        if packer == 0 {
            damage(&mut tar);
            let _ = unpacked(&tar);
            return Ok(());
        }
        let mut packed = match packer {
            1 => zstd::encode_all(&*tar, 3).unwrap(),
            2 => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&tar).unwrap();
                gzip.finish().unwrap()
            }
            _ => {
                let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
                xz.write_all(&tar).unwrap();
                xz.finish().unwrap()
            }
        };
        damage(&mut packed);
        let _ = unpacked(&packed);
    }
}
