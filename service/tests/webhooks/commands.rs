//! `larderd deliveries` and `larderd jobs`, beside the service that runs.

use larder_service::queue::{NewJob, Priority};
use serde_json::{Value, json};

use crate::world::{HOUR, World, about_acme};

fn read(output: &std::process::Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn deliveries_are_listed_shown_and_acted_on_again() {
    let world = World::new().await;
    world.deliver("star", &about_acme(json!({ "action": "created\n\u{1b}[2J" }))).await;
    let deleted = about_acme(json!({ "ref": "topic", "ref_type": "branch" }));
    let guid = world.deliver("delete", &deleted).await["delivery"].as_str().unwrap().to_owned();

    let listed = read(&world.larderd(&["deliveries", "list", "--json"]).await);
    assert_eq!(listed["deliveries"][0]["guid"], guid.as_str());
    assert_eq!(listed["deliveries"].as_array().unwrap().len(), 2);
    assert_eq!(listed["counts"][1], json!({ "event": "star", "outcome": "ignored", "count": 1 }));
    assert_eq!(
        read(&world.larderd(&["deliveries", "list", "--limit", "1", "--json"]).await)["deliveries"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let text = world.larderd(&["deliveries", "list"]).await.stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(&guid) && text.contains("star: 1 ignored"), "{text}");
    assert!(!text.contains('\u{1b}') && text.contains("created\\n"), "what others wrote is escaped: {text}");

    let shown = read(&world.larderd(&["deliveries", "show", &guid, "--json"]).await);
    assert_eq!(shown["deliveries"][0]["payload"], deleted);
    assert_eq!(shown["deliveries"][0]["headers"]["x-github-event"], "delete");

    world.pass(25 * HOUR).await;
    assert!(world.jobs().await.is_empty());
    let replayed = world.larderd(&["deliveries", "replay", &guid]).await;
    assert!(
        String::from_utf8_lossy(&replayed.stderr).contains("jobs that follow from it: 1"),
        "{replayed:?}"
    );
    world.pass(0).await;
    assert!(world.jobs().await.is_empty(), "the service did not see the job that another process stored");
    let shown = read(&world.larderd(&["deliveries", "show", &guid, "--json"]).await);
    assert!(shown["deliveries"][0]["delivery"]["replayed_at"].is_i64(), "{shown}");

    let ignored = listed["deliveries"][1]["guid"].as_str().unwrap();
    for (delivery, why) in
        [(ignored, "nothing follows from the event \"star\""), ("none", "larderd deliveries list")]
    {
        let refused = world.larderd(&["deliveries", "replay", delivery]).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_replay_says_what_was_stored_and_why_no_more() {
    let world = World::new().await;
    let push = |commit: &str, pushed_at: i64| {
        json!({
            "ref": "refs/heads/main", "after": commit.repeat(40),
            "repository": { "id": 42, "full_name": "acme/flake", "pushed_at": pushed_at },
        })
    };
    let deliver = async |event: &str, payload: &Value| {
        world.deliver(event, payload).await["delivery"].as_str().unwrap().to_owned()
    };
    let older = deliver("push", &push("1", 100)).await;
    let newer = deliver("push", &push("2", 200)).await;
    let deleted = deliver("delete", &about_acme(json!({ "ref": "topic", "ref_type": "branch" }))).await;
    world.pass(0).await;
    for (delivery, says) in [
        (&older, "follow from it: 0; 2 more are of no use, since something newer came after it"),
        (&newer, "follow from it: 2\n"),
        // It waits for its grace to be over.
        (&deleted, "follow from it: 0; 1 more wait already"),
    ] {
        let replayed = world.larderd(&["deliveries", "replay", delivery]).await;
        let said = String::from_utf8(replayed.stderr).unwrap();
        assert!(replayed.status.success() && said.contains(says), "{said}");
    }
    world.pass(25 * HOUR).await;
    world.end().await;
}

#[tokio::test]
async fn jobs_are_listed_and_tried_again() {
    let world = World::new().await;
    let job = NewJob {
        kind: "of-next-year".to_owned(),
        work: "{\"kind\":\"of-next-year\"}".to_owned(),
        key: "of-next-year".to_owned(),
        subject: None,
        sequence: None,
        priority: Priority::EVENT,
        due_at: world.service.clock.now(),
    };
    world.service.queue.enqueue(&job).await.unwrap();
    for _ in 0..10 {
        world.pass(2 * HOUR).await;
    }
    let listed = read(&world.larderd(&["jobs", "list", "--json"]).await);
    assert_eq!(listed["jobs"][0]["state"], "failed");
    assert!(listed["jobs"][0]["error"].as_str().unwrap().contains("Run a newer one"), "{listed}");
    let text = String::from_utf8(world.larderd(&["jobs", "list"]).await.stdout).unwrap();
    assert!(text.contains("given up\t10 attempts\tof-next-year"), "{text}");

    let number = listed["jobs"][0]["id"].to_string();
    assert_eq!(world.larderd(&["jobs", "retry", "999999"]).await.status.code(), Some(1));
    assert_eq!(world.larderd(&["jobs", "retry"]).await.status.code(), Some(2));
    assert!(world.larderd(&["jobs", "retry", &number]).await.status.success());
    world.pass(0).await;
    let listed = read(&world.larderd(&["jobs", "list", "--json"]).await);
    let retried =
        listed["jobs"].as_array().unwrap().iter().find(|job| job["kind"] == "of-next-year").unwrap();
    assert_eq!((&retried["state"], &retried["attempts"]), (&json!("waiting"), &json!(1)), "{listed}");
    world.end().await;
}

#[tokio::test]
async fn without_a_service_there_is_nothing_to_list() {
    let nowhere = tempfile::tempdir().unwrap();
    for command in [["deliveries", "list"], ["jobs", "list"]] {
        let mut larderd = std::process::Command::new(env!("CARGO_BIN_EXE_larderd"));
        let output =
            larderd.env_clear().env("LARDER_DATA_DIR", nowhere.path()).args(command).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("LARDER_DATA_DIR"));
    }
}
