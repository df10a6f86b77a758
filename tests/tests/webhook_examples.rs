//! All webhooks that GitHub's documentation shows, through the signed front door.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeSet, fs, path::Path};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use larder_service::{forge::replay, metadata::Metadata};
use larder_tests::{
    programs::repository,
    world::{Scene, World},
};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

const SECRET: &str = "a secret of this test alone";
/// The events from which something may follow.
const KNOWN: [&str; 10] = [
    "create",
    "delete",
    "installation",
    "installation_repositories",
    "ping",
    "pull_request",
    "push",
    "release",
    "repository",
    "workflow_run",
];

/// What npm's `@octokit/webhooks-examples` holds of each event.
#[derive(Deserialize)]
struct Event {
    name: String,
    examples: Vec<Value>,
}

fn examples() -> Vec<(String, Value)> {
    let file = repository().join("target/webhooks-examples/index.json");
    let text = fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; scripts/test installs it", file.display()));
    let events: Vec<Event> = serde_json::from_slice(&text).unwrap();
    events
        .into_iter()
        .flat_map(|event| event.examples.into_iter().map(move |e| (event.name.clone(), e)))
        .collect()
}

/// Whoever may be what an example is about.
fn owners(examples: &[(String, Value)]) -> BTreeSet<&str> {
    let login = |value: &'_ Value| value["login"].is_string();
    let mut owners = BTreeSet::new();
    for (_, example) in examples {
        let named =
            [&example["repository"]["owner"], &example["organization"], &example["installation"]["account"]];
        owners.extend(
            named.into_iter().filter(|value| login(value)).filter_map(|value| value["login"].as_str()),
        );
    }
    owners
}

#[tokio::test(flavor = "multi_thread")]
async fn from_each_of_githubs_own_examples_follows_what_is_to_follow_and_no_fault() {
    let examples = examples();
    assert_eq!(examples.len(), 329);
    let names: Vec<String> = owners(&examples).into_iter().map(|owner| format!("\"{owner}/*\"")).collect();
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let rule = format!(
        "\n[[webhook]]\nrepositories = [{}]\nsecrets = [{{ file = \"{}\" }}]\n",
        names.join(", "),
        secret.display()
    );
    let mut scene = Scene::default();
    scene.caches.push_str(&rule);
    let world = World::with(scene).await;

    let empty = scratch.path().join("empty.db");
    Metadata::open(&empty).await.unwrap().close().await;
    let client = reqwest::Client::new();
    for (number, (event, example)) in examples.iter().enumerate() {
        let body = example.to_string();
        let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap().chain_update(&body);
        let signature = format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes()));
        let delivery = client
            .post(format!("{}/webhooks/github", world.url()))
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", format!("example-{number}"))
            .header("X-Hub-Signature-256", signature)
            .body(body);
        let answer = delivery.send().await.unwrap();
        assert_eq!(answer.status(), 202, "{event}: {example}");
        let answer: Value = answer.json().await.unwrap();
        let expected = if KNOWN.contains(&event.as_str()) { "taken" } else { "ignored" };
        assert_eq!(answer["outcome"], expected, "{event}: {example}");
        assert_eq!(answer["new"], true);
        if expected == "taken" {
            let guid = answer["delivery"].as_str().unwrap();
            assert_eq!(followed(&world, guid, &empty).await, follows(event, example), "{event}: {example}");
        }
    }
    all_is_done(&world).await;
    // What comes after a grace, too.
    world.advance(30 * 24 * 60 * 60);
    all_is_done(&world).await;
}

/// The kinds of jobs that are to follow from an event.
fn follows(event: &str, example: &Value) -> Vec<&'static str> {
    let is = |name: &str| example[name] == true;
    match (event, example["action"].as_str().unwrap_or_default()) {
        ("create", _) => vec!["keep-ref"],
        ("delete", _) => vec!["forget-ref"],
        ("installation" | "installation_repositories", _) => vec!["look-again"],
        ("pull_request", "closed") => vec!["forget-ref"],
        ("pull_request", "opened" | "synchronize") => vec!["prefetch-ref"],
        ("pull_request", "reopened") => vec!["keep-ref", "prefetch-ref"],
        ("push", _) if is("deleted") => vec!["forget-ref"],
        ("push", _) if is("created") => vec!["keep-ref", "prefetch-inputs", "prefetch-ref"],
        ("push", _) => vec!["prefetch-inputs", "prefetch-ref"],
        ("release", "published" | "unpublished" | "deleted") => vec!["release"],
        ("repository", "created") => vec!["keep-repository"],
        ("repository", "deleted") => vec!["forget-repository"],
        ("repository", "renamed") => vec!["rename-repository"],
        ("repository", "transferred") => vec!["rename-repository", "suspend-repository"],
        // One of them is completed without having been concluded.
        ("workflow_run", "completed") if example["workflow_run"]["conclusion"] == "success" => {
            vec!["conclude-run", "fill-host-store", "prefetch-run"]
        }
        _ => Vec::new(),
    }
}

/// The kinds of the jobs that follow from a delivery, where nobody does any: in a copy of an empty database.
async fn followed(world: &World, guid: &str, empty: &Path) -> Vec<String> {
    let service = world.service();
    let [delivery] = &service.metadata.delivery(guid).await.unwrap()[..] else { panic!("not once: {guid}") };
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("larder.db");
    fs::copy(empty, &database).unwrap();
    let apart = Metadata::open(&database).await.unwrap();
    replay(&apart, &service.config.webhooks, delivery, service.clock.now()).await.unwrap();
    let mut kinds: Vec<String> = apart.jobs().await.unwrap().into_iter().map(|job| job.kind).collect();
    apart.close().await;
    kinds.sort_unstable();
    kinds
}

/// Waits until no job is due, and none has failed.
async fn all_is_done(world: &World) {
    let service = world.service();
    service.queue.wake();
    service.queue.idle().await.unwrap();
    let failed: Vec<_> =
        service.metadata.jobs().await.unwrap().into_iter().filter(|job| job.error.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
