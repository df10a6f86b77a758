//! Who brought a path: what the service tells, what `larder why` shows, what it states under its signature, and what
//! `larder verify` believes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use data_encoding::BASE64;
use larder_action::{
    agent::{
        messages::{Finish, JobIdentity, Start},
        push::Work,
    },
    credentials::Credentials,
    secret::Secret,
    store::{Mark, NixStore},
    workflow::inputs::What,
};
use larder_protocol::{
    NarHash, SigningKey, StorePath,
    api::OpenPush,
    envelope::Envelope,
    provenance::{PUSH_PREDICATE, Provenance, PushedBy, STATEMENT_TYPE},
};
use larder_service::{clock::Clock, trust::people};
use larder_tests::{
    github::Job,
    larder::Push,
    nix::{self, Output, run_with_input},
    package::{Node, Package},
    programs::program,
    source_store::{SourceStore, tree},
    world::{Scene, World},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// `larder`, with nothing of the test's own environment.
fn larder(args: &[&str]) -> Command {
    let mut command = Command::new(program("larder"));
    // No key is trusted but what a test says.
    command.env_clear().env("HOME", "/var/empty").env("NIX_CONF_DIR", "/var/empty").args(args);
    command
}

async fn run(command: &mut Command) -> Output {
    run_with_input(command, b"").await
}

async fn why(world: &World, path: &str, more: &[&str]) -> Output {
    let url = world.url();
    run(larder(&["why", path, "--service", &url]).args(more)).await
}

/// The same, by somebody with this token.
async fn why_by(token: &str, world: &World, path: &str, more: &[&str]) -> Output {
    let url = world.url();
    run(larder(&["why", path, "--service", &url]).args(more).env("LARDER_TOKEN", token)).await
}

/// `larder verify -` of this statement.
async fn verify(statement: &str, args: &[&str]) -> Output {
    run_with_input(larder(&["verify", "-"]).args(args), statement.as_bytes()).await
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, said: &str) {
    assert_eq!(output.code, Some(code), "{output:?}");
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(all.contains(said), "{said:?} is not in {output:?}");
}

/// What the service answers to somebody with this token.
async fn ask(world: &World, page: &str, token: Option<&str>) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(format!("{}/api/v1/caches/main/paths/{page}", world.url()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

async fn provenance(world: &World, package: &Package, token: Option<&str>) -> Provenance {
    let answer = ask(world, &package.info.path.hash().to_string(), token).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// A token of a person, as `larderd token create` makes it.
async fn person(world: &World, name: &str) -> String {
    let clock = Clock::Set(world.clock.clone());
    let token = people::create_token(
        &world.service().metadata,
        &clock,
        people::NewToken::pushing(name, &"main".parse().unwrap(), 3600),
    )
    .await
    .unwrap();
    token.expose().to_owned()
}

/// One path in a store, pushed by a job with `larder push`.
async fn pushed(world: &World, job: Job) -> SourceStore {
    let source = SourceStore::new([tree("hello-1.0", Node::File(b"hello".to_vec()))]).await;
    let job = world.github.start_job(job);
    source.push(Push::in_job(&world.url(), &job)).report().await;
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_real_push_is_told_to_whoever_asks() {
    let world = World::of_enterprise_server(Scene::default()).await;
    let source = pushed(&world, Job::default()).await;
    let (path, anna) = (&source.root().info.path, person(&world, "anna").await);
    let told = provenance(&world, source.root(), Some(&anna)).await;
    assert_eq!((&told.path, told.nar_hash), (path, source.root().info.nar_hash));
    assert_eq!(told.pushed_at, "2026-09-22T12:00:00Z");
    assert!(!told.reported_built, "nobody said so");
    let PushedBy::Job(job) = told.pushed_by else { panic!("{told:?}") };
    let server = world.github.issuer().strip_suffix("/_services/token").unwrap();
    let run = format!("{server}/acme/flake/actions/runs/18204417093/attempts/1");
    assert_eq!((job.repository.as_str(), job.run_url.as_deref()), ("acme/flake", Some(run.as_str())));

    let shown = why_by(&anna, &world, &path.absolute(), &[]).await.expect_success();
    let lines = [
        path.absolute(),
        "  pushed    to main, 2026-09-22T12:00:00Z".to_owned(),
        "  by        a job of acme/flake".to_owned(),
        format!("  verified  by {}", world.github.issuer()),
        "  commit    4f0c1ad5cb8cb3a21d5b7e1f8d2a0e6b9c3d7a11".to_owned(),
        "  ref       refs/heads/main (push)".to_owned(),
        "  workflow  acme/flake/.github/workflows/build.yml@refs/heads/main".to_owned(),
        format!("  run       {run}"),
        "  actor     rosa".to_owned(),
        format!("  NAR       {}, 120 B", source.root().info.nar_hash),
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), lines);
    // To a stranger the same, but for where an organisation's own forge is.
    let mut lines = lines;
    lines[3] =
        "  verified  by an issuer that is told to those who may push there, by LARDER_TOKEN".to_owned();
    lines[7] = "  run       18204417093, attempt 1".to_owned();
    let shown = why(&world, &path.absolute(), &[]).await.expect_success();
    assert_eq!(shown.lines().collect::<Vec<_>>(), lines);
    for (token, told) in [(Some(&*anna), true), (None, false)] {
        let stated = ask(&world, &format!("{}/statement", path.hash()), token).await;
        let envelope: Envelope = stated.json().await.unwrap();
        let stated = String::from_utf8(BASE64.decode(envelope.payload.as_bytes()).unwrap()).unwrap();
        assert_eq!((stated.contains("acme/flake"), stated.contains(server)), (true, told), "{stated}");
    }

    // A link to the path will do, and another cache or path will not.
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("result");
    std::os::unix::fs::symlink(path.absolute(), &link).unwrap();
    assert_eq!(why(&world, link.to_str().unwrap(), &[]).await.expect_success(), shown);
    let absent = Package::noise("absent", 1).info.path.absolute();
    assert_ends(&why(&world, &absent, &[]).await, 1, "the cache has no such path");
    assert_ends(&why(&world, &path.absolute(), &["--cache", "other"]).await, 1, "there is no such cache");
    assert_ends(&why(&world, "/etc/passwd", &[]).await, 2, "/etc/passwd");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_push_names_the_token() {
    let world = World::new().await;
    let source = SourceStore::new([tree("by-hand", Node::File(b"x".to_vec()))]).await;
    let token = person(&world, "anna-laptop").await;
    source.push(Push::with_token(&world.url(), &token)).report().await;
    let told = provenance(&world, source.root(), None).await;
    assert_eq!(told.pushed_by, PushedBy::Person { name: "anna-laptop".to_owned() });
    let shown = why(&world, &source.root().info.path.absolute(), &[]).await.expect_success();
    assert!(shown.contains("\n  by        a person, with the token anna-laptop\n"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_believed_only_as_it_was_signed() {
    let world = World::new().await;
    let source = pushed(&world, Job::default()).await;
    let (path, root) = (source.root().info.path.absolute(), source.dir().to_str().unwrap().to_owned());
    let key = world.reader().await.public_keys[0].clone();
    let anna = person(&world, "anna").await;
    let printed = why_by(&anna, &world, &path, &["--json"]).await.expect_success();

    // The formats that others read.
    let envelope: Envelope = serde_json::from_str(&printed).unwrap();
    assert_eq!(envelope.payload_type, "application/vnd.in-toto+json");
    assert_eq!(envelope.signatures[0].keyid, key.split(':').next().unwrap());
    let payload = BASE64.decode(envelope.payload.as_bytes()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        (&statement["_type"], &statement["predicateType"]),
        (&json!(STATEMENT_TYPE), &json!(PUSH_PREDICATE))
    );
    let sha256 = data_encoding::HEXLOWER.encode(&source.root().info.nar_hash.0);
    assert_eq!(statement["subject"], json!([{"name": path, "digest": {"sha256": sha256}}]));
    assert_eq!(statement["predicate"]["pushed_by"]["claims"]["repository_id"], json!(610_214_307));
    assert_eq!(statement["predicate"].get("reported"), None, "nobody said that the job built it");

    let good = ["--key", &key, "--store", &root];
    let held = verify(&printed, &[&good[..], &[&path]].concat()).await;
    assert_ends(&held, 0, "The signature holds, and the path is as it was pushed.");
    assert!(held.stdout.contains("\n  by        a job of acme/flake\n"), "{held:?}");
    assert_ends(&verify(&printed, &["--key", &key]).await, 0, "The path is not in this store");
    // By the keys that Nix trusts.
    let config = format!("trusted-public-keys = nonsense\nextra-trusted-public-keys = {key}");
    let mut by_config = larder(&["verify", "-", "--store", &root]);
    let held = run_with_input(by_config.env("NIX_CONFIG", config), printed.as_bytes()).await;
    assert_ends(&held, 0, "as it was pushed");
    assert_ends(&verify(&printed, &[]).await, 2, "--key");

    // Another payload, another signature, another key, another type.
    let changed = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = envelope.clone();
        change(&mut envelope);
        serde_json::to_string(&envelope).unwrap()
    };
    let other_claims = String::from_utf8(payload.clone()).unwrap().replace("acme/flake", "evil/flake");
    let forger = SigningKey::generate(key.split(':').next().unwrap()).unwrap();
    for forged in [
        changed(&|envelope| envelope.payload = BASE64.encode(other_claims.as_bytes())),
        changed(&|envelope| envelope.signatures[0].sig = BASE64.encode(&[7; 64])),
        changed(&|envelope| envelope.signatures.clear()),
        changed(&|envelope| envelope.payload_type = "application/json".to_owned()),
        serde_json::to_string(&Envelope::sign(&payload, &forger)).unwrap(),
        "{}".to_owned(),
        String::new(),
    ] {
        assert_ends(&verify(&forged, &good).await, 5, "the statement does not hold");
    }
    let other = SigningKey::generate("other-1").unwrap().public_key().to_string();
    assert_ends(&verify(&printed, &["--key", &other]).await, 5, "none of the trusted keys");

    // Another path, another NAR.
    let another = Package::noise("hello-1.0", 1).info.path.absolute();
    assert_ends(&verify(&printed, &[&good[..], &[&another]].concat()).await, 5, "it is about");
    let hash = source.root().info.nar_hash.to_string();
    assert_ends(&verify(&printed, &["--key", &key, "--nar-hash", &hash]).await, 0, "as it was pushed");
    let hash = NarHash([1; 32]).to_string();
    assert_ends(&verify(&printed, &["--key", &key, "--nar-hash", &hash]).await, 5, "is not what was pushed");
    let file = source.real_path(&source.root().info.path);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "hellO").unwrap();
    assert_ends(&verify(&printed, &good).await, 5, "is not what was pushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trusted_key_signed_for_another_end_is_no_statement() {
    let key = SigningKey::generate("a-1").unwrap();
    let subject = json!({"name": "/nix/store/s66mzxpvicwk07gjbjfw9izjfa797vsw-x", "digest": {"sha256": "00".repeat(32)}});
    let predicate = json!({
        "cache": "main", "path": "s66mzxpvicwk07gjbjfw9izjfa797vsw-x", "nar_size": 1, "pushed_at": "then",
        "nar_hash": format!("sha256:{}", "00".repeat(32)), "pushed_by": {"kind": "person", "name": "anna"},
    });
    let good = json!({
        "_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PUSH_PREDICATE, "predicate": predicate,
    });
    let public = key.public_key().to_string();
    let signed = |statement: &Value| {
        serde_json::to_string(&Envelope::sign(statement.to_string().as_bytes(), &key)).unwrap()
    };
    assert_ends(&verify(&signed(&good), &["--key", &public]).await, 0, "The signature holds");
    for (part, value) in [
        ("/_type", json!("https://in-toto.io/Statement/v0.1")),
        ("/predicateType", json!("https://slsa.dev/provenance/v1")),
        ("/subject", json!([])),
        ("/subject", json!([subject, subject])),
        ("/subject/0/name", json!("/nix/store/../../etc/passwd")),
        ("/subject/0/name", json!("/nix/store/a66mzxpvicwk07gjbjfw9izjfa797vsw-x")),
        ("/subject/0/digest/sha256", json!("11".repeat(32))),
        ("/subject/0/digest/sha256", json!("11")),
        ("/predicate", json!({})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(part).unwrap() = value;
        assert_ends(&verify(&signed(&bad), &["--key", &public]).await, 5, "does not say who pushed a path");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_says_that_it_built_is_marked_as_its_own_word() {
    let world = World::of_enterprise_server(Scene::default()).await;
    let leaf = Package::noise("source", 100);
    let mut built = Package::noise("built", 100).referring_to([&leaf]);
    built.info.deriver = Some(Package::noise("built.drv", 1).info.path);
    let client = world.client().await;
    let opened = client
        .open_push(&OpenPush {
            paths: vec![leaf.info.clone(), built.info.clone()],
            roots: vec![built.info.path.clone()],
            // Of what is not in the closure nothing is kept.
            built: vec![built.info.path.hash(), Package::noise("x", 1).info.path.hash()],
            ..OpenPush::default()
        })
        .await
        .unwrap();
    client.send(opened.push, &[&leaf, &built]).await.unwrap();
    client.commit(opened.push).await.unwrap();

    assert!(!provenance(&world, &leaf, None).await.reported_built);
    assert!(provenance(&world, &built, None).await.reported_built);
    let shown = why(&world, &built.info.path.absolute(), &[]).await.expect_success();
    let deriver = built.info.deriver.as_ref().unwrap().absolute();
    let line = format!("  built     by that job from {deriver}, as it says itself: nobody has verified that");
    assert!(shown.lines().any(|shown| shown == line), "{shown}");

    let printed =
        why_by(client.token(), &world, &built.info.path.absolute(), &["--json"]).await.expect_success();
    let envelope: Envelope = serde_json::from_str(&printed).unwrap();
    let statement: Value =
        serde_json::from_slice(&BASE64.decode(envelope.payload.as_bytes()).unwrap()).unwrap();
    let reported = &statement["predicate"]["reported"];
    assert_eq!((&reported["by"], &reported["verified"]), (&json!("the pushing job"), &json!(false)));
    assert_eq!(reported["predicateType"], "https://slsa.dev/provenance/v1");
    let server = world.github.issuer().strip_suffix("/_services/token").unwrap();
    let definition = &reported["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["repository"], "acme/flake");
    assert_eq!(
        definition["resolvedDependencies"],
        json!([
            {
                "uri": format!("git+{server}/acme/flake@refs/heads/main"),
                "digest": {"gitCommit": "4f0c1ad5cb8cb3a21d5b7e1f8d2a0e6b9c3d7a11"},
            },
            {"uri": format!("nix:{deriver}")},
        ])
    );
    let run = &reported["predicate"]["runDetails"];
    assert_eq!(
        run["metadata"]["invocationId"],
        format!("{server}/acme/flake/actions/runs/18204417093/attempts/1")
    );
    assert_eq!(run["builder"]["id"], format!("{}#github-hosted", world.github.issuer()));
    let key = world.reader().await.public_keys[0].clone();
    assert_ends(&verify(&printed, &["--key", &key]).await, 0, "nobody has verified that");
}

/// What the agent does at a job's end: pushes this path of the machine's store, of which what is above the mark was
/// built by the job, if the store is its own.
async fn agent_pushes(world: &World, mark: Mark, shared: bool, path: &StorePath) {
    let job = world.github.start_job(Job::default());
    let credentials = Credentials::Job {
        request_url: job.request_url.parse().unwrap(),
        request_token: Secret::new(&job.request_token),
    };
    let start = Start {
        service: world.url().parse().unwrap(),
        cache: "main".parse().unwrap(),
        pull_request: false,
        identity: JobIdentity::of(&credentials),
        push: true,
        what: What::Built,
        shared,
        relay: false,
        user: 0,
        lifetime: 60,
        marker: false,
        level: 3,
        max_body: None,
    };
    let finish = Finish { paths: Some(vec![path.clone()]), seconds: 60 };
    let work = serde_json::to_string(&Work { start, mark, cache: None, finish }).unwrap() + "\n";
    let told = run_with_input(&mut larder(&["agent", "push"]), work.as_bytes()).await.expect_success();
    assert!(told.lines().last().unwrap().contains("\"done\""), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_reports_what_the_job_itself_built() {
    let world = World::new().await;
    let store_path = |path: &Path| StorePath::from_absolute(path.to_str().unwrap()).unwrap();
    let leaf = nix::derivation("before-the-job", &[], "echo leaf > $out");
    let before = store_path(&nix::build(&leaf).await[0]);
    let mark = NixStore::open(Path::new("/")).await.unwrap().high_water_mark().await.unwrap();
    let top = nix::derivation("by-the-job", &[&leaf], "mkdir $out; ln -s $in0 $out/leaf");
    let other = nix::derivation("by-somebody", &[], "echo other > $out");
    let (built, unclear) = (nix::build(&top).await, nix::build(&other).await);
    let (by_job, by_somebody) = (store_path(&built[0]), store_path(&unclear[0]));

    agent_pushes(&world, mark, false, &by_job).await;
    agent_pushes(&world, mark, true, &by_somebody).await;
    for (path, reported) in [(&before, false), (&by_job, true), (&by_somebody, false)] {
        let told: Provenance = ask(&world, &path.hash().to_string(), None).await.json().await.unwrap();
        assert_eq!(told.reported_built, reported, "{path}");
        assert!(told.deriver.is_some(), "{path}");
    }
    nix::delete(&[built, unclear].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_repository_that_is_not_public_strangers_learn_nothing() {
    let scene = Scene {
        caches: "[[cache]]\nname = \"main\"\nupstream = []\n[[cache.trust]]\nrepository = \"acme/secret-plan\"\nref = \
                 \"refs/heads/main\"\npublish = true\n[[cache.trust]]\nrepository = \"acme/flake\"\nref = \
                 \"refs/heads/main\"\n"
            .to_owned(),
        ..Scene::default()
    };
    let world = World::with(scene).await;
    let secret = Job {
        visibility: "private".to_owned(),
        repository_id: 99,
        run_id: 4711,
        check_run_id: 4712,
        ..Job::push("acme/secret-plan", "main")
    };
    let source = pushed(&world, secret.clone()).await;
    let path = source.root().info.path.absolute();
    let hash = source.root().info.path.hash().to_string();

    // Strangers, and jobs of other repositories that push to the same cache.
    let other = world.client().await;
    for token in [None, Some(other.token())] {
        for page in [hash.clone(), format!("{hash}/statement")] {
            let answer = ask(&world, &page, token).await;
            assert_eq!(answer.status(), 200);
            let mut text = answer.text().await.unwrap();
            if let Ok(envelope) = serde_json::from_str::<Envelope>(&text) {
                text = String::from_utf8(BASE64.decode(envelope.payload.as_bytes()).unwrap()).unwrap();
            }
            assert!(text.contains("\"withheld\""), "{text}");
            // Whoever may push there may know at least which forge it is.
            assert_eq!(text.contains(world.github.issuer()), token.is_some(), "{text}");
            for told in ["secret", "acme", "rosa", "refs/", "4711", "4f0c1ad5"] {
                assert!(!text.contains(told), "{told} is in {text}");
            }
        }
    }
    let shown = why(&world, &path, &[]).await.expect_success();
    assert!(shown.contains("a repository that is not public") && !shown.contains("acme"), "{shown}");

    // The repository's own jobs, and people whom the operator gave a token.
    let own = world.exchange(&Job { run_id: 4713, check_run_id: 4714, ..secret }).await.unwrap();
    let person = person(&world, "anna").await;
    for token in [own.token(), &person] {
        let told = provenance(&world, source.root(), Some(token)).await;
        assert!(
            matches!(&told.pushed_by, PushedBy::Job(job) if job.repository == "acme/secret-plan"),
            "{told:?}"
        );
    }
    let url = world.url();
    let mut with_token = larder(&["why", &path, "--service", &url]);
    let shown = run(with_token.env("LARDER_TOKEN", &person)).await.expect_success();
    assert!(shown.contains("a job of acme/secret-plan"), "{shown}");
    // A token that is not good is no stranger's silence.
    let wrong = "larder_person_0123456789abcdef0123456789abcdef";
    assert_eq!(ask(&world, &hash, Some(wrong)).await.status(), 401);
    let mut with_token = larder(&["why", &path, "--service", &url]);
    assert_ends(&run(with_token.env("LARDER_TOKEN", wrong)).await, 3, "error:");
    assert!(!Path::new("/var/empty/.config").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_signed_by_the_newest_key() {
    let world = World::new().await;
    let source = pushed(&world, Job::default()).await;
    let path = source.root().info.path.absolute();
    let new = run(&mut world.larderd(&["key", "rotate"]).await).await.expect_success();
    world.advance(5);
    let printed = why(&world, &path, &["--json"]).await.expect_success();
    assert_ends(&verify(&printed, &["--key", new.trim()]).await, 0, "  signed    by larder-main-2");
}
