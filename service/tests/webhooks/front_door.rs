//! What is taken, and what is refused before anything is stored.

use larder_service::{audit::Kind, forge::DeliveryOutcome, metadata::AuditFilter};
use serde_json::json;
use sha2::Digest as _;

use crate::{
    github::{SIGNATURE, guid, sign},
    world::{FIRST, OTHER, SECOND, World, about_acme, taken},
};

#[tokio::test]
async fn a_signed_delivery_is_stored_under_its_name_once() {
    let world = World::new().await;
    let guid = guid();
    let payload = about_acme(json!({ "ref": "topic", "ref_type": "branch" })).to_string().into_bytes();
    for new in [true, false, false] {
        let delivery =
            world.delivery_named(&guid, "delete", &payload).header(SIGNATURE, sign(FIRST, &payload));
        let answer = taken(delivery.send().await.unwrap()).await;
        assert_eq!(answer, json!({ "delivery": guid, "outcome": "taken", "new": new }));
    }
    let [stored] = &world.service.metadata.delivery(&guid).await.unwrap()[..] else { panic!("not once") };
    assert_eq!((stored.row.event.as_str(), stored.row.about.as_str()), ("delete", "acme/flake"));
    assert_eq!(stored.payload.as_deref(), Some(&payload[..]));
    assert!(
        stored.headers.contains("292430182") && !stored.headers.contains("sha256="),
        "{}",
        stored.headers
    );
    assert_eq!(world.jobs().await.len(), 1, "what follows is stored with it, and once");
    world.end().await;
}

/// What is signed is no payload. So it is told from what is not signed by the answer.
#[tokio::test]
async fn the_signature_that_github_gives_as_an_example_is_good() {
    let world = World::new().await;
    let example = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    for (body, status) in [("Hello, World!", 400), ("Hello, World.", 403)] {
        let delivery = world.delivery("ping", body.as_bytes()).header(SIGNATURE, example);
        assert_eq!(delivery.send().await.unwrap().status(), status, "{body}");
    }
    world.end().await;
}

#[tokio::test]
async fn while_a_secret_is_replaced_both_are_good() {
    let world = World::new().await;
    let body = about_acme(json!({})).to_string().into_bytes();
    for secret in [FIRST, SECOND] {
        taken(world.delivery("ping", &body).header(SIGNATURE, sign(secret, &body)).send().await.unwrap())
            .await;
    }
    assert_eq!(world.stored().await, 2);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_signature_the_answer_is_the_same() {
    let world = World::new().await;
    let body = about_acme(json!({})).to_string().into_bytes();
    let good = sign(FIRST, &body);
    let of_another_body = sign(FIRST, b"{}");
    let sha1 = format!("sha1={}", "0".repeat(40));
    let digest = format!("sha256={}", data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&body)));
    let mut answers = Vec::new();
    for (header, value) in [
        (SIGNATURE, sign("a secret that is nobody's", &body)),
        (SIGNATURE, sign("", &body)),
        (SIGNATURE, of_another_body),
        (SIGNATURE, digest),
        (SIGNATURE, good[..good.len() - 2].to_owned()),
        (SIGNATURE, "sha256=".to_owned()),
        (SIGNATURE, good.replace("sha256=", "")),
        (SIGNATURE, good.replace("sha256=", "sha1=")),
        (SIGNATURE, format!("{good}00")),
        (SIGNATURE, String::new()),
        ("X-Hub-Signature", sha1),
        ("X-Hub-Signature", good.clone()),
    ] {
        let answer = world.delivery("ping", &body).header(header, &value).send().await.unwrap();
        answers.push((answer.status(), answer.text().await.unwrap()));
    }
    // Of two headers nobody can say which is meant.
    let twice = world.delivery("ping", &body).header(SIGNATURE, &good).header(SIGNATURE, sign(OTHER, &body));
    let twice = twice.send().await.unwrap();
    answers.push((twice.status(), twice.text().await.unwrap()));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(answers[0].0, 403);
    assert_eq!(world.stored().await, 0);
}

#[tokio::test]
async fn what_nobody_signed_is_not_read() {
    let world = World::new().await;
    let readable = about_acme(json!({})).to_string().into_bytes();
    let mut answers = Vec::new();
    for body in [&readable[..], b"{", b" ", b"\xff\xfe", b"payload=%7B%7D"] {
        let unsigned = world.delivery("ping", body);
        let by_nobody =
            world.delivery("ping", body).header(SIGNATURE, sign("a secret that is nobody's", body));
        // Nor are its headers: this one names no event.
        let nameless = world.delivery("No Event", body).header(SIGNATURE, sign("", body));
        for delivery in [unsigned, by_nobody, nameless] {
            let answer = delivery.send().await.unwrap();
            answers.push((answer.status(), answer.text().await.unwrap()));
        }
        if body != readable {
            let signed = world.delivery("ping", body).header(SIGNATURE, sign(FIRST, body));
            assert_eq!(signed.send().await.unwrap().status(), 400);
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(answers[0].0, 403);
    assert_eq!(world.stored().await, 0);
}

#[tokio::test]
async fn a_secret_speaks_for_its_own_repositories_alone() {
    let world = World::new().await;
    let repository = |name: &str| json!({ "repository": { "full_name": name } });
    let owner =
        |login: &str| json!({ "action": "created", "installation": { "account": { "login": login } } });
    let organization = |login: &str| json!({ "organization": { "login": login } });
    for (payload, secret, status) in [
        (repository("acme/flake"), FIRST, 202),
        (repository("Acme/FLAKE"), FIRST, 202),
        (repository("team/anything"), FIRST, 202),
        (repository("other/thing"), OTHER, 202),
        (repository("acme/flake"), OTHER, 403),
        (repository("other/thing"), FIRST, 403),
        (repository("acme/flake2"), FIRST, 403),
        (repository("teams/anything"), FIRST, 403),
        (repository("nobody/knows"), FIRST, 403),
        (owner("acme"), FIRST, 202),
        (owner("acme"), OTHER, 403),
        (organization("team"), SECOND, 202),
        (organization("team"), OTHER, 403),
        (json!({ "zen": "Keep it logically awesome." }), OTHER, 202),
    ] {
        let before = world.stored().await;
        let body = payload.to_string().into_bytes();
        let answer =
            world.delivery("ping", &body).header(SIGNATURE, sign(secret, &body)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{payload} by {secret}");
        assert_eq!(world.stored().await - before, usize::from(status == 202), "{payload} by {secret}");
    }
}

/// Else whoever knows one repository's secret could have another's delivery taken for one that came before.
#[tokio::test]
async fn nobody_can_take_the_name_of_anothers_delivery() {
    let world = World::new().await;
    let guid = guid();
    let others = json!({ "repository": { "full_name": "other/thing" } }).to_string().into_bytes();
    let ours = about_acme(json!({})).to_string().into_bytes();
    for (body, secret) in [(others, OTHER), (ours, FIRST)] {
        let delivery = world.delivery_named(&guid, "ping", &body).header(SIGNATURE, sign(secret, &body));
        assert_eq!(taken(delivery.send().await.unwrap()).await["new"], true);
    }
}

#[tokio::test]
async fn events_that_are_not_known_are_counted_and_not_kept() {
    let world = World::new().await;
    for event in ["star", "star", "an_event_of_next_year"] {
        assert_eq!(
            world.deliver(event, &about_acme(json!({ "action": "created" }))).await["outcome"],
            "ignored"
        );
    }
    world.deliver("ping", &about_acme(json!({}))).await;
    let counts = world.service.metadata.delivery_counts().await.unwrap();
    let counts: Vec<_> = counts.iter().map(|c| (c.event.as_str(), c.outcome, c.count)).collect();
    let expected = [
        ("an_event_of_next_year", DeliveryOutcome::Ignored, 1),
        ("ping", DeliveryOutcome::Taken, 1),
        ("star", DeliveryOutcome::Ignored, 2),
    ];
    assert_eq!(counts, expected);
    let deliveries = world.service.metadata.deliveries(10).await.unwrap();
    let star = world.service.metadata.delivery(&deliveries[3].guid).await.unwrap().remove(0);
    assert!(star.payload.is_none() && star.headers.contains("x-github-event"), "{star:?}");
    assert_eq!(star.row.action.as_deref(), Some("created"));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_remedy_and_not_stored() {
    let world = World::new().await;
    let deep = "[".repeat(100_000);
    for body in [
        "payload=%7B%7D",
        "{",
        "\u{0}",
        r#"{"repository":{}}"#,
        r#"{"repository":{"full_name":"a b/c"}}"#,
        &deep,
    ] {
        let body = body.as_bytes();
        let answer = world.delivery("ping", body).header(SIGNATURE, sign(FIRST, body)).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(answer.text().await.unwrap().contains("application/json"));
    }
    let body = about_acme(json!({})).to_string().into_bytes();
    for (guid, event) in
        [("", "ping"), ("a b", "ping"), ("x", ""), ("x", "Ping Pong"), (&"x".repeat(65)[..], "ping")]
    {
        let delivery = world.delivery_named(guid, event, &body).header(SIGNATURE, sign(FIRST, &body));
        assert_eq!(delivery.send().await.unwrap().status(), 400, "{guid:?} {event:?}");
    }
    assert_eq!(world.stored().await, 0);
}

#[tokio::test]
async fn a_payload_without_what_matters_is_kept_and_does_no_harm() {
    let world = World::new().await;
    for (event, more) in [
        ("delete", json!({})),
        ("delete", json!({ "ref": "x", "ref_type": "moon" })),
        ("delete", json!({ "ref": "x\n", "ref_type": "branch" })),
        ("workflow_run", json!({ "action": "completed", "workflow_run": null })),
        ("workflow_run", json!({ "action": "completed", "workflow_run": { "id": -1, "run_attempt": 1 } })),
    ] {
        assert_eq!(world.deliver(event, &about_acme(more)).await["outcome"], "unreadable", "{event}");
    }
    assert!(world.jobs().await.is_empty());
}

#[tokio::test]
async fn who_is_refused_is_on_record_once_however_often() {
    let world = World::new().await;
    let body = about_acme(json!({})).to_string().into_bytes();
    for _ in 0..50 {
        let refused = world.delivery("ping", &body).header(SIGNATURE, sign("another secret", &body));
        assert_eq!(refused.send().await.unwrap().status(), 403);
    }
    world.service.audit.flush().await;
    let filter = AuditFilter { kind: Some(Kind::Denied), limit: 100, ..AuditFilter::default() };
    let denied = world.service.metadata.audit(&filter).await.unwrap();
    assert_eq!(denied.iter().map(|row| row.times).collect::<Vec<_>>(), [50], "{denied:?}");
    world.end().await;
}
