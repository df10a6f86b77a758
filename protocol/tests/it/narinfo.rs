//! Narinfos: those that Nix writes, and those that nobody should.

use larder_protocol::{PublicKey, SigningKey, narinfo::NarInfo};

/// What Nix 2.8.0 wrote for a file that refers to two others:
/// `nix eval --raw --expr 'builtins.toFile "b" "see ${builtins.toFile "a" "hi"} and ${builtins.toFile "c" "ho"}"'`,
/// `nix store sign -k sec -r PATH`, `nix copy --to 'file://DIR?compression=zstd' PATH`.
const NIX: &str = "\
StorePath: /nix/store/fgcmyiyk13ljf88v5xjaykgxl9p9kpil-b
URL: nar/0jsg41wf813c6k76dv2ki975haf6w3hrn3q813hxby5jzgpfcxv6.nar.zst
Compression: zstd
FileHash: sha256:0jsg41wf813c6k76dv2ki975haf6w3hrn3q813hxby5jzgpfcxv6
FileSize: 165
NarHash: sha256:1g17il6m8z5spsv7f1b50329z2qrs2w6zwh2h1h7p8nbs5hwkzwc
NarSize: 216
References: 9c3lxr0am3d0zcv3cb6q36a3q3j4k7ma-c ww5ixrr91z8mx6fzy97kwzl5lv5slwdr-a
Sig: test-1:DIyxqrUYiG+04ynvm3MjRZvN+OJyds1natNYI1LfQhCb0A//jAaUZKk5BCheIERuVVHyUIkWoh4IOVNI7ek1DQ==
CA: text:sha256:19sq0rvqkibqn1m24jfih9vmr5s50wvflnlsc6q80rgkff204g6l
";

/// `nix-store --generate-binary-cache-key test-1 sec pub`: a key for this test alone.
const SECRET: &str =
    "test-1:YNQQ2X4Ds+WpXZJ6+TyQMXBpFPC9LRp/TyFbX8/TjGtgWRJUun7eM1gwpKUlT0JlbPdBu7I6rMjJ1jwsXKdAfA==";
const PUBLIC: &str = "test-1:YFkSVLp+3jNYMKSlJU9CZWz3QbuyOqzIydY8LFynQHw=";

#[test]
fn writes_what_nix_wrote() {
    assert_eq!(NarInfo::parse(NIX).unwrap().to_string(), NIX);
}

#[test]
fn signs_as_nix_signed() {
    let mut info = NarInfo::parse(NIX).unwrap();
    let key: SigningKey = SECRET.parse().unwrap();
    assert_eq!(key.public_key().to_string(), PUBLIC);
    assert_eq!(key.to_secret_text(), SECRET);
    assert_eq!(key.sign(&info.fingerprint()), info.signatures[0]);
    let public: PublicKey = PUBLIC.parse().unwrap();
    assert!(public.verifies(&info.fingerprint(), &info.signatures[0]));
    // In whatever order references come, and however often: Nix signs them sorted.
    info.references.reverse();
    info.references.push(info.references[0].clone());
    assert!(public.verifies(&info.fingerprint(), &info.signatures[0]));
    info.nar_size += 1;
    assert!(!public.verifies(&info.fingerprint(), &info.signatures[0]));
}

#[test]
fn shows_no_secret() {
    let key: SigningKey = SECRET.parse().unwrap();
    assert_eq!(format!("{key:?}"), "SigningKey(test-1:…)");
    let wrong = SECRET.replace('+', "-").parse::<SigningKey>().unwrap_err();
    assert!(!format!("{wrong} {wrong:?}").contains("YNQQ"));
    // The second half of a secret key is the public one; another's would sign what nobody can verify.
    let mixed = SECRET.replace("tgWRJ", "sgWRJ");
    assert!(mixed.parse::<SigningKey>().is_err());
}

#[track_caller]
fn assert_refused(text: &str, reason: &str) {
    let error = NarInfo::parse(text).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn refuses_what_lacks_or_bends_a_field() {
    for key in ["StorePath", "URL", "NarHash", "NarSize"] {
        let text: String =
            NIX.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
        assert_refused(&text, &format!("{key} is missing"));
    }
    for (from, to, reason) in [
        ("/nix/store/fg", "/gnu/store/fg", "StorePath"),
        ("/nix/store/fg", "/nix/store/../", "StorePath"),
        ("-b\n", "-b/c\n", "StorePath"),
        ("-b\n", "-b\r\n", "StorePath"),
        ("URL: nar/", "URL: \nX: ", "URL is missing"),
        ("NarSize: 216", "NarSize: 0", "NarSize is missing"),
        ("NarSize: 216", "NarSize: -1", "NarSize"),
        ("NarSize: 216", "NarSize: 216 ", "NarSize"),
        ("NarSize: 216", "NarSize: 18446744073709551616", "NarSize"),
        ("NarHash: sha256:1g", "NarHash: sha256:zg", "NarHash"),
        ("NarHash: sha256:1g", "NarHash: sha1:1g", "NarHash"),
        ("NarHash: sha256:1g", "NarHash: 1g", "NarHash"),
        ("FileSize: 165", "FileSize: x", "FileSize"),
        ("9c3lxr0am3d0zcv3cb6q36a3q3j4k7ma-c", "/nix/store/9c3lxr0am3d0zcv3cb6q36a3q3j4k7ma-c", "References"),
        ("Sig: ", "References: 9c3lxr0am3d0zcv3cb6q36a3q3j4k7ma-c\nSig: ", "more than one References"),
        ("CA: ", "CA: text:sha256:x\nCA: ", "more than one CA"),
        ("Compression: zstd", "Compression zstd", "Compression zstd"),
        ("Compression: zstd\n", "\n", "\"\""),
    ] {
        let text = NIX.replacen(from, to, 1);
        assert_ne!(text, NIX);
        assert_refused(&text, reason);
    }
    assert_refused("", "no end");
    assert_refused("\n", "\"\"");
    for end in 0..NIX.len() {
        let _ = NarInfo::parse(&NIX[..end]);
        assert!(NIX[..end].ends_with('\n') || NarInfo::parse(&NIX[..end]).is_err());
    }
}

#[test]
fn takes_what_nix_takes() {
    let reads = |from: &str, to: &str| NarInfo::parse(&NIX.replacen(from, to, 1)).unwrap();
    assert_eq!(reads("Compression: zstd\n", "").compression, None);
    assert_eq!(reads("CA: ", "Unknown: ").ca, None);
    assert_eq!(reads("Sig: ", "Deriver: unknown-deriver\nSig: ").deriver, None);
    let deriver = "9c3lxr0am3d0zcv3cb6q36a3q3j4k7ma-c.drv";
    let info = reads("Sig: ", &format!("Deriver: {deriver}\nSig: "));
    assert_eq!(info.deriver.clone().unwrap().to_string(), deriver);
    assert_eq!(NarInfo::parse(&info.to_string()).unwrap(), info);
    let sig = &NIX[NIX.find("Sig: ").unwrap()..NIX.find("CA: ").unwrap()];
    assert_eq!(reads("Sig: ", &format!("{}Sig: ", sig.replace("test-1", "test-2"))).signatures.len(), 2);
    assert_eq!(reads("Sig: ", "Sig: in-a-format-to-come\nSig: ").signatures.len(), 1);
    let references = &NIX[NIX.find("References: ").unwrap()..NIX.find("Sig: ").unwrap()];
    let info = reads(references, "References: \n");
    assert!(info.references.is_empty());
    // The blank stays: without it, Nix would read what follows as the value.
    assert!(info.to_string().contains("References: \n"));
}

#[test]
fn a_derived_key_is_another_with_each_salt_and_name() {
    let key: SigningKey = SECRET.parse().unwrap();
    let derived = key.derive("test-1~42-pr-7", &[1; 32]).unwrap();
    let public = derived.public_key();
    assert_eq!(public, key.derive("test-1~42-pr-7", &[1; 32]).unwrap().public_key());
    assert!(public.verifies("text", &derived.sign("text")));
    for other in [key.derive("test-1~42-pr-7", &[2; 32]), key.derive("test-1~42-pr-8", &[1; 32])] {
        let other = other.unwrap().public_key().to_string();
        assert_ne!(other.split_once(':').unwrap().1, public.to_string().split_once(':').unwrap().1);
    }
    assert!(key.derive("two words", &[1; 32]).is_err());
}
