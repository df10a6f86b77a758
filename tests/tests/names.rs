//! Names with Markdown, the runner's commands, line ends and a terminal's controls in them, wherever they are shown.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::atomic::Ordering;

use larder_service::clock::Clock;
use larder_tests::{
    github::Job,
    larder::Push,
    nix::{Output, run, run_with_input},
    package::{Node, Package},
    programs::program,
    source_store::{SourceStore, tree},
    world::{Scene, World},
};
use tokio::process::Command;

/// Whatever a person or a workflow may be called, and then some.
const NASTY: &str = "x\r\n  actor     admin\n::add-mask::a\n::set-output name=b::c%0A##[error]d\u{1b}[2J\u{9b}1A\u{202e}\
                     \u{2066}\u{200b} **e** `f` | <img src=g> [h](i) @j";

/// Neither a terminal nor GitHub's runner, in whose log `larder` may write, takes any of it for more than a text.
#[track_caller]
fn assert_harmless(shown: &str) {
    assert_quiet(shown);
    for line in shown.lines() {
        assert!(!line.trim_start().starts_with("::"), "{line:?}");
    }
    assert!(!shown.contains("##["), "{shown}");
}

/// Nothing of it acts on a terminal.
#[track_caller]
fn assert_quiet(shown: &str) {
    let bad = |c: char| c != '\n' && (c.is_control() || ('\u{200b}'..='\u{206f}').contains(&c));
    assert!(!shown.contains(bad), "{shown:?}");
}

/// What a command shows to a person, on both of its streams.
#[track_caller]
fn all(output: &Output) -> String {
    format!("{}{}", output.stdout, output.stderr)
}

fn larder(args: &[&str]) -> Command {
    let mut command = Command::new(program("larder"));
    command.env_clear().env("HOME", "/var/empty").env("NIX_CONF_DIR", "/var/empty").args(args);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_called_badly_shows_as_what_it_is_called() {
    // A ref may have all but control characters.
    let branch = "x::add-mask::a##[error]b\u{202e}\u{2066} **c** `d` | <e>";
    let scene = Scene {
        caches:
            "[[cache]]\nname = \"main\"\nupstream = []\n[[cache.trust]]\nrepository = \"acme/flake\"\nref = \
                 \"refs/heads/x**\"\n"
                .to_owned(),
        ..Scene::default()
    };
    let world = World::with(scene).await;
    // What no job has pushed to for long keeps nothing, by the time that the commands know.
    world.clock.store(Clock::System.now(), Ordering::SeqCst);
    let job = Job {
        actor: NASTY.to_owned(),
        workflow: NASTY.to_owned(),
        workflow_file: NASTY.to_owned(),
        sha: NASTY.to_owned(),
        environment: Some(NASTY.to_owned()),
        ..Job::push("acme/flake", branch)
    };
    let source = SourceStore::new([tree("_x_-_+=?._", Node::File(b"x".to_vec()))]).await;
    let pushed = source.push(Push::in_job(&world.url(), &world.github.start_job(job.clone()))).run().await;
    assert!(pushed.success, "{pushed:?}");
    assert_harmless(&all(&pushed));

    let (url, path) = (world.url(), source.root().info.path.absolute());
    let why = run(&mut larder(&["why", &path, "--service", &url])).await.expect_success();
    assert_harmless(&why);
    let names: Vec<&str> = why.lines().skip(1).map(|line| line[2..12].trim()).collect();
    assert_eq!(
        names,
        ["pushed", "by", "verified", "commit", "ref", "workflow", "run", "actor", "NAR"],
        "{why}"
    );
    assert!(why.contains("\n  actor     x\\r\\n  actor     admin\\n::add-mask::a\\n"), "{why}");

    // What programs read says what the token said; what a terminal shows of it does no harm either.
    let statement = run(&mut larder(&["why", &path, "--service", &url, "--json"])).await.expect_success();
    assert_harmless(&statement);
    let key = world.reader().await.public_keys[0].clone();
    let verify = run_with_input(&mut larder(&["verify", "-", "--key", &key]), statement.as_bytes()).await;
    assert_harmless(&verify.stdout);
    assert!(verify.success && verify.stdout.starts_with(&why), "{verify:?}");

    let audit = run(&mut world.larderd(&["audit"]).await).await.expect_success();
    assert_quiet(&audit);
    assert!(audit.contains("  by x\\r\\n  actor     admin\\n::add-mask::a\\n"), "{audit}");
    assert!(audit.lines().all(|line| line.starts_with("20")), "{audit}");
    let json = run(&mut world.larderd(&["audit", "--json"]).await).await.expect_success();
    assert_harmless(&json);
    for line in json.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }

    // The same path again, with other contents: in all that the service tells of who brought what and what keeps it.
    let other = Package::with_nar(source.root().info.path.clone(), Node::File(b"y".to_vec()).nar());
    let again = world.exchange(&Job { run_id: 2, ..job }).await.unwrap();
    assert_eq!(again.push(&[&other]).await.unwrap().divergences.len(), 1);
    let name = source.root().info.path.to_string();
    let shown_branch = "refs/heads/x::add-mask::a##[error]b\\u{202e}\\u{2066} **c** `d` | <e>";
    for (arguments, told) in [
        (&["divergences"][..], &["kept", &name, shown_branch][..]),
        (&["divergences", "--json"], &["\"kept\"", &path]),
        (&["roots", "list"], &[shown_branch, "x\\r\\n  actor     admin\\n::add-mask::a\\n"]),
        (&["stats"], &[shown_branch]),
        (&["why-alive", &path], &["is kept by", shown_branch]),
        (&["audit", "--repository", "ACME/flake"], &["granted", "push-committed", "acme/flake"]),
    ] {
        let said = run(&mut world.larderd(arguments).await).await.expect_success();
        assert_quiet(&said);
        assert!(!said.contains("\n  actor"), "{arguments:?}: {said}");
        for told in told {
            assert!(said.contains(told), "{arguments:?} without {told:?}: {said}");
        }
    }
    let of_others = run(&mut world.larderd(&["audit", "--repository", "acme/other"]).await).await;
    assert_eq!(of_others.expect_success(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_quotes_a_bad_name_does_no_harm() {
    let world = World::new().await;
    let source = SourceStore::new([tree("x", Node::File(b"x".to_vec()))]).await;
    let good = Job::default();
    for job in [
        Job { git_ref: "refs/heads/x::add-mask::a\u{202e}##[error]b".to_owned(), ..good.clone() },
        Job { git_ref: format!("refs/heads/{NASTY}"), ..good.clone() },
        Job { repository: format!("acme/{NASTY}"), ..good.clone() },
        Job { event: NASTY.to_owned(), ..good.clone() },
    ] {
        let refused = source.push(Push::in_job(&world.url(), &world.github.start_job(job))).run().await;
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert_harmless(&all(&refused));
    }
    let audit = run(&mut world.larderd(&["audit"]).await).await.expect_success();
    assert_quiet(&audit);
    assert!(audit.lines().all(|line| line.starts_with("2026-")), "{audit}");
}
