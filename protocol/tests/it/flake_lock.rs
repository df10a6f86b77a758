use std::process::Command;

use larder_protocol::flake_lock::{
    Commit, FlakeLock, InvalidFlakeLock, MAX_LOCK_LEN, MAX_LOCK_NODES, Origin, Refused,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::nix::run;

const REV: &str = "b0b1c2d3e4f5061728394a5b6c7d8e9f00112233";
/// The SHA-256 of nothing, as SRI.
const HASH: &str = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

fn lock(locked: Value) -> Value {
    json!({
        "nodes": {
            "root": { "inputs": { "it": "it" } },
            "it": { "inputs": { "x": ["it"] }, "locked": locked, "original": { "id": "it", "type": "indirect" } },
        },
        "root": "root",
        "version": 7,
    })
}

fn parse(lock: &Value) -> Result<FlakeLock, InvalidFlakeLock> {
    FlakeLock::parse(lock.to_string().as_bytes())
}

fn with_hash(mut locked: Value) -> FlakeLock {
    locked["narHash"] = HASH.into();
    locked["lastModified"] = 1.into();
    parse(&lock(locked)).unwrap()
}

#[track_caller]
fn refused(locked: Value, why: Refused) {
    let lock = with_hash(locked.clone());
    assert!(lock.inputs.is_empty(), "{locked}");
    assert_eq!(lock.refused.iter().map(|input| input.why).collect::<Vec<_>>(), [why], "{locked}");
}

fn origin(locked: Value) -> Option<Origin> {
    let lock = with_hash(locked);
    assert!(lock.refused.is_empty(), "{lock:?}");
    lock.inputs.into_iter().next().unwrap().origin
}

#[test]
fn an_input_has_the_store_path_that_nix_gives_it() {
    let lock = with_hash(json!({ "type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": REV }));
    let printed = run("nix-store", |nix: &mut Command| {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        nix.args(["--print-fixed-path", "--recursive", "sha256", hash, "source"]);
    });
    assert_eq!(lock.inputs[0].path.absolute(), String::from_utf8(printed).unwrap().trim_end());
    assert_eq!(lock.inputs[0].name, "it");
}

#[test]
fn says_where_an_input_may_be_had() {
    let commit = |host: Option<&str>, owner: &str| Commit {
        host: host.map(str::to_owned),
        owner: owner.to_owned(),
        repository: "re.po-_".to_owned(),
        revision: REV.to_owned(),
    };
    let github = json!({ "type": "github", "owner": "NixOS", "repo": "re.po-_", "rev": REV.to_uppercase() });
    assert_eq!(origin(github), Some(Origin::GitHub(commit(None, "NixOS"))));
    let elsewhere =
        json!({ "type": "github", "host": "git.acme.org", "owner": "a", "repo": "re.po-_", "rev": REV });
    assert_eq!(origin(elsewhere), Some(Origin::GitHub(commit(Some("git.acme.org"), "a"))));
    let gitlab = json!({ "type": "gitlab", "owner": "group%2Fsub", "repo": "re.po-_", "rev": REV });
    assert_eq!(origin(gitlab), Some(Origin::GitLab(commit(None, "group/sub"))));
    let url = "https://releases.nixos.org/nixos/nixexprs.tar.xz";
    assert_eq!(origin(json!({ "type": "tarball", "url": url })), Some(Origin::Tarball(url.to_owned())));
    for locked in [
        json!({ "type": "git", "url": "https://example.org/x.git", "rev": REV }),
        json!({ "type": "sourcehut", "owner": "~a", "repo": "b", "rev": REV }),
        json!({ "type": "of-the-future" }),
    ] {
        assert_eq!(origin(locked), None);
    }
}

#[test]
fn what_cannot_be_fetched_is_refused_and_the_rest_is_not() {
    for (kind, url) in [
        ("path", "/etc"),
        ("file", "https://example.org/x"),
        ("git", "ssh://git@github.com/acme/private"),
        ("git", "git@github.com:acme/private"),
        ("git", "file:///srv/git/x"),
        ("git", "/srv/git/x"),
        ("hg", "ssh://example.org/x"),
        ("tarball", "file:///etc/passwd"),
        ("indirect", ""),
    ] {
        refused(json!({ "type": kind, "url": url }), Refused::Local);
    }
    let commits = [
        ("..", "b", REV),
        (".", "b", REV),
        ("", "b", REV),
        ("a/b", "b", REV),
        ("a%2Fb", "b", REV),
        ("a", "b/../../c", REV),
        ("a", "b?x", REV),
        ("a", "b#x", REV),
        ("a@evil.example", "b", REV),
        ("a", "b", "main"),
        ("a", "b", &REV[1..]),
        ("a", "b", "../../../../../../../../../../../../etc/"),
        ("a\n", "b", REV),
    ];
    for (owner, repo, rev) in commits {
        refused(json!({ "type": "github", "owner": owner, "repo": repo, "rev": rev }), Refused::Origin);
    }
    refused(json!({ "type": "gitlab", "owner": "a/../b", "repo": "c", "rev": REV }), Refused::Origin);
    refused(json!({ "type": "github", "owner": "a", "repo": "b" }), Refused::Origin);
    refused(json!({ "type": "tarball" }), Refused::Origin);

    let without = parse(&lock(json!({ "type": "github", "owner": "a", "repo": "b", "rev": REV }))).unwrap();
    assert_eq!(without.refused[0].why, Refused::NoNarHash);
    for hash in ["", "sha256-", "sha512-x", "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "../../etc"] {
        let locked = json!({ "type": "github", "owner": "a", "repo": "b", "rev": REV, "narHash": hash });
        assert_eq!(parse(&lock(locked)).unwrap().refused[0].why, Refused::NoNarHash, "{hash}");
    }
    let mut both = lock(json!({ "type": "path", "path": "/x", "narHash": HASH }));
    both["nodes"]["other"]["locked"] =
        json!({ "type": "tarball", "url": "https://x.example/y", "narHash": HASH });
    let both = parse(&both).unwrap();
    assert_eq!((both.inputs.len(), both.refused.len()), (1, 1));
}

#[test]
fn a_path_is_named_once_and_by_whoever_says_where_it_is() {
    let mut twice = lock(json!({ "type": "git", "url": "https://x.example/y", "narHash": HASH }));
    twice["nodes"]["same"]["locked"] =
        json!({ "type": "github", "owner": "a", "repo": "b", "rev": REV, "narHash": HASH });
    let twice = parse(&twice).unwrap();
    assert_eq!(twice.inputs.len(), 1);
    assert_eq!(twice.inputs[0].name, "same");
    assert!(twice.inputs[0].origin.is_some());
}

#[test]
fn is_read_within_bounds() {
    for version in 5..=7 {
        let mut lock = lock(json!({ "type": "tarball", "url": "https://x.example/y", "narHash": HASH }));
        lock["version"] = version.into();
        assert_eq!(parse(&lock).unwrap().inputs.len(), 1);
    }
    for version in [0, 4, 8] {
        assert_eq!(
            parse(&json!({ "version": version, "nodes": {} })),
            Err(InvalidFlakeLock::Version(version))
        );
    }
    assert_eq!(FlakeLock::parse(&vec![b' '; MAX_LOCK_LEN + 1]), Err(InvalidFlakeLock::TooLong));
    let nodes = |count: usize| {
        let nodes: serde_json::Map<String, Value> = (0..count).map(|n| (n.to_string(), json!({}))).collect();
        parse(&json!({ "version": 7, "nodes": nodes }))
    };
    assert_eq!(nodes(MAX_LOCK_NODES), Ok(FlakeLock::default()));
    assert!(matches!(nodes(MAX_LOCK_NODES + 1), Err(InvalidFlakeLock::Unreadable(_))));
    let deep = format!(
        r#"{{"version":7,"nodes":{{"a":{{"inputs":{}{}}}}}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let _ = FlakeLock::parse(deep.as_bytes());
    for text in ["", "[]", "{}", "null", r#"{"version":7,"nodes":[]}"#, r#"{"version":-7,"nodes":{}}"#] {
        assert!(matches!(FlakeLock::parse(text.as_bytes()), Err(InvalidFlakeLock::Unreadable(_))), "{text}");
    }
}

proptest! {
    /// Whatever stands in a lock file, what is taken of it can stand in a URL.
    #[test]
    fn whatever_is_written_names_no_other_place(
        kind in "github|gitlab|tarball|git|path|.{0,8}",
        owner in ".{0,12}",
        repo in "[a-z./%\\\\]{0,6}|.{0,12}",
        rev in "[0-9a-fA-F]{40}|.{0,40}",
        url in "(https|http|ssh|file)://.{0,20}|.{0,20}",
        more in any::<Option<String>>(),
    ) {
        let lock = with_hash(json!({
            "type": kind, "owner": owner, "repo": repo, "rev": rev, "url": url, "host": more,
        }));
        for input in lock.inputs {
            if let Some(Origin::GitHub(commit) | Origin::GitLab(commit)) = input.origin {
                for part in commit.owner.split('/').chain([&*commit.repository, &*commit.revision]) {
                    prop_assert!(!part.is_empty() && part != "." && part != "..", "{part:?}");
                    prop_assert!(part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{part:?}");
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = FlakeLock::parse(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = FlakeLock::parse(json!({ "version": 7, "nodes": { &*text: { "locked": { "type": text } } } }).to_string().as_bytes());
    }
}
