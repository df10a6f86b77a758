//! All webhooks that GitHub's documentation shows, through the signed front door.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeSet, fs};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
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
async fn none_of_githubs_own_examples_is_answered_by_a_fault() {
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
    }
}
