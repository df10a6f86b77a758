//! Who gets a session, and what it is worth.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_protocol::api::ErrorCode;
use larder_service::clock::Clock;
use larder_tests::{
    client::{Answer, Client},
    github::{Claims, GitHub, Job, Page, Signed, Trouble},
    package::Package,
    world::{Scene, World},
};
use serde_json::json;

async fn offer(world: &World, id_token: &str) -> Answer<Client> {
    Client::exchange(&world.url(), "main", id_token).await
}

/// Offers a token of which one thing is changed.
async fn offer_with(world: &World, change: impl FnOnce(&mut Claims)) -> Answer<Client> {
    let mut claims = world.github.claims(&Job::default(), &world.url());
    change(&mut claims);
    offer(world, &world.github.sign(&claims, Signed::Well)).await
}

#[track_caller]
fn assert_refused(answer: Answer<Client>, error: ErrorCode, why: &str) {
    let refusal = answer.map(|_| ()).expect_err("a session was granted");
    assert_eq!(refusal.answer.error, error, "{}", refusal.answer.message);
    let status = if error == ErrorCode::Denied { 403 } else { 401 };
    assert_eq!(refusal.status, status);
    assert!(refusal.answer.message.contains(why), "{why:?} is not in {:?}", refusal.answer.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_that_a_rule_names_gets_a_session_that_can_push() {
    let world = World::new().await;
    let client = world.exchange(&Job::default()).await.unwrap();
    client.push(&[&Package::noise("tool", 1000)]).await.unwrap();
    // GitHub writes names as their owners do; a rule matches them without case.
    world.exchange(&Job::push("ACME/Flake", "main")).await.unwrap();
    // Discovery and keys are asked for once, and kept.
    assert_eq!((world.github.asked(Page::Discovery), world.github.asked(Page::Keys)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_refused() {
    let world = World::new().await;
    let claims = world.github.claims(&Job::default(), &world.url());
    for (signed, why) in [
        (Signed::ByAnother, "signature does not hold"),
        (Signed::ByUnknownKid, "does not publish"),
        (Signed::WithoutKid, "does not publish"),
        (Signed::NotAtAll, "only RS256"),
        (Signed::Hs256WithPublicKey, "only RS256"),
    ] {
        let answer = offer(&world, &world.github.sign(&claims, signed)).await;
        assert_refused(answer, ErrorCode::Unauthorized, why);
    }
    // None of them used the `jti` up.
    offer(&world, &world.github.sign(&claims, Signed::Well)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_changed_is_refused() {
    let world = World::new().await;
    let strangers = world.github.id_token(&Job::push("mallory/flake", "main"), &world.url());
    let good = world.github.id_token(&Job::default(), &world.url());
    let (head, signature) = strangers.rsplit_once('.').unwrap();
    let claims = good.split('.').nth(1).unwrap();
    let mixed = format!("{}.{claims}.{signature}", head.split('.').next().unwrap());
    assert_refused(offer(&world, &mixed).await, ErrorCode::Unauthorized, "signature");
    assert_refused(offer(&world, &good[..good.len() - 8]).await, ErrorCode::Unauthorized, "");
    for nonsense in ["", ".", "..", "a.b.c", "\u{0}", &"x".repeat(40_000)] {
        assert_refused(offer(&world, nonsense).await, ErrorCode::Unauthorized, "not an ID token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_be_used_once() {
    let mut world = World::new().await;
    let token = world.github.id_token(&Job::default(), &world.url());
    offer(&world, &token).await.unwrap();
    assert_refused(offer(&world, &token).await, ErrorCode::Unauthorized, "exchanged before");
    world.restart().await;
    assert_refused(offer(&world, &token).await, ErrorCode::Unauthorized, "exchanged before");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_offer_a_token_at_once_one_gets_a_session() {
    let world = World::new().await;
    let token = world.github.id_token(&Job::default(), &world.url());
    let (one, other) = tokio::join!(offer(&world, &token), offer(&world, &token));
    assert!(one.is_ok() != other.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_in_its_time_alone() {
    let world = World::new().await;
    let late = world.github.id_token(&Job::default(), &world.url());
    world.advance(300 + 60);
    assert_refused(offer(&world, &late).await, ErrorCode::Unauthorized, "ended");

    let early = world.github.id_token(&Job::default(), &world.url());
    world.advance(-120);
    assert_refused(offer(&world, &early).await, ErrorCode::Unauthorized, "future");

    let not_yet = |claims: &mut Claims| {
        claims["nbf"] = json!(claims["iat"].as_i64().unwrap() + 120);
    };
    assert_refused(offer_with(&world, not_yet).await, ErrorCode::Unauthorized, "future");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_another_audience_is_refused() {
    let world = World::new().await;
    let url = world.url();
    for audience in [
        json!("https://cache.example.org"),
        json!(format!("{url}/")),
        json!(format!("{url}/main")),
        json!(url.to_uppercase()),
        json!([url]),
        json!("https://github.com/acme"),
        json!(""),
    ] {
        let answer = offer_with(&world, |claims| claims["aud"] = audience.clone()).await;
        assert_refused(answer, ErrorCode::Unauthorized, "audience");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lacks_a_claim_is_refused() {
    let world = World::new().await;
    for claim in ["iss", "aud", "exp", "iat", "jti", "repository", "ref", "event_name", "run_id"] {
        let answer = offer_with(&world, |claims| drop(claims.remove(claim))).await;
        let refusal = answer.map(|_| ()).expect_err(claim);
        assert!(matches!(refusal.status.as_u16(), 401 | 403), "{claim}: {}", refusal.answer.message);
    }
    for claim in ["exp", "iat"] {
        let answer = offer_with(&world, |claims| claims[claim] = json!("soon")).await;
        assert_refused(answer, ErrorCode::Unauthorized, "does not say what it must");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_issuer_is_neither_believed_nor_asked() {
    let world = World::new().await;
    let stranger = GitHub::start(Clock::Set(world.clock.clone())).await;
    let token = stranger.id_token(&Job::default(), &world.url());
    assert_refused(offer(&world, &token).await, ErrorCode::Unauthorized, "does not trust");
    assert_eq!(stranger.asked(Page::Discovery), 0);
    // Its key is no better under the name of the one that is trusted.
    let mut claims = stranger.claims(&Job::default(), &world.url());
    claims["iss"] = json!(world.github.issuer());
    let token = stranger.sign(&claims, Signed::Well);
    assert_refused(offer(&world, &token).await, ErrorCode::Unauthorized, "does not publish");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_found_without_a_restart() {
    let world = World::new().await;
    world.exchange(&Job::default()).await.unwrap();
    world.github.rotate_key();
    // Keys are not asked for again at once, or anybody could make the service ask without end.
    world.advance(120);
    world.exchange(&Job::default()).await.unwrap();
    world.github.drop_old_keys();
    world.exchange(&Job::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_keys_do_not_make_the_service_ask_and_ask() {
    let world = World::new().await;
    let claims = world.github.claims(&Job::default(), &world.url());
    let token = world.github.sign(&claims, Signed::ByUnknownKid);
    for _ in 0..20 {
        assert_refused(offer(&world, &token).await, ErrorCode::Unauthorized, "does not publish");
    }
    assert!(world.github.asked(Page::Keys) <= 2, "{}", world.github.asked(Page::Keys));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_in_trouble_is_no_refusal() {
    let world = World::new().await;
    for trouble in
        [Trouble::Status(500), Trouble::Body("<html>".to_owned()), Trouble::Body("{\"keys\":{}}".to_owned())]
    {
        world.github.trouble(Page::Keys, trouble);
        let refusal = world.exchange(&Job::default()).await.unwrap_err();
        assert_eq!(refusal.status, 503, "{}", refusal.answer.message);
        assert_eq!(refusal.answer.error, ErrorCode::Unavailable);
        world.advance(120);
    }
    world.exchange(&Job::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_no_rule_names_are_denied() {
    let world = World::new().await;
    let job = Job::default;
    for (what, job) in [
        ("another repository", Job::push("acme/other", "main")),
        ("another owner", Job::push("mallory/flake", "main")),
        ("a name that begins so", Job::push("acme/flake2", "main")),
        ("another branch", Job::push("acme/flake", "topic")),
        ("a branch in another case", Job::push("acme/flake", "Main")),
        ("a tag of the same name", Job { git_ref: "refs/tags/main".to_owned(), ..job() }),
        ("a pull request", Job::pull_request("acme/flake", 7)),
        // These run with the base repository's identity and its default branch.
        ("pull_request_target", Job { event: "pull_request_target".to_owned(), ..job() }),
        ("workflow_run", Job { event: "workflow_run".to_owned(), ..job() }),
        ("issue_comment", Job { event: "issue_comment".to_owned(), ..job() }),
        ("an event of the future", Job { event: "thought".to_owned(), ..job() }),
        ("a private repository to a public cache", Job { visibility: "private".to_owned(), ..job() }),
        ("an internal repository to a public cache", Job { visibility: "internal".to_owned(), ..job() }),
    ] {
        let refusal = world.exchange(&job).await.map(|_| ()).expect_err(what);
        assert_eq!((refusal.status.as_u16(), refusal.answer.error), (403, ErrorCode::Denied), "{what}");
    }
    for event in ["push", "workflow_dispatch", "schedule", "release", "merge_group"] {
        world.exchange(&Job { event: event.to_owned(), ..job() }).await.unwrap();
    }
    let ids = Job { sub_with_ids: true, environment: Some("production".to_owned()), ..job() };
    world.exchange(&ids).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_is_told_does_not_depend_on_which_caches_there_are() {
    let world = World::with(Scene::saying("[[cache]]\nname = \"team\"\nupstream = []")).await;
    let answers = ["team", "nothing"].map(|cache| {
        let token = world.github.id_token(&Job::push("mallory/flake", "main"), &world.url());
        let url = world.url();
        async move { Client::exchange(&url, cache, &token).await.map(|_| ()).unwrap_err() }
    });
    let [there, not_there] = answers;
    let (there, not_there) = (there.await, not_there.await);
    assert_eq!(there.status, not_there.status);
    assert_eq!(there.answer.message.replace("team", "nothing"), not_there.answer.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_ref_can_be_demanded_instead_of_a_name() {
    let caches = "[[cache]]\nname = \"main\"\nupstream = []\n[[cache.trust]]\nrepository = \"acme/flake\"\n\
                  ref_protected = true\n";
    let world = World::with(Scene { caches: caches.to_owned(), ..Scene::default() }).await;
    world.exchange(&Job { ref_protected: true, ..Job::push("acme/flake", "release-1") }).await.unwrap();
    world.exchange(&Job::push("acme/flake", "main")).await.map(|_| ()).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_after_a_quarter_of_an_hour_or_when_it_is_told_to() {
    let world = World::new().await;
    let package = Package::noise("tool", 1000);
    let client = world.client().await;
    world.advance(14 * 60);
    client.open(&[&package]).await.unwrap();
    world.advance(2 * 60);
    let refusal = client.open(&[&package]).await.unwrap_err();
    assert_eq!((refusal.status.as_u16(), refusal.answer.error), (401, ErrorCode::Unauthorized));

    let client = world.client().await;
    let revoke = || {
        reqwest::Client::new()
            .delete(format!("{}/api/v1/token", world.url()))
            .bearer_auth(client.token())
            .send()
    };
    assert_eq!(revoke().await.unwrap().status(), 204);
    assert_eq!(revoke().await.unwrap().status(), 401);
    assert_eq!(client.open(&[&package]).await.unwrap_err().status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pushes_without_a_session() {
    let world = World::new().await;
    let package = Package::noise("tool", 1000);
    let id_token = world.github.id_token(&Job::default(), &world.url());
    for token in ["", "guessed", &id_token] {
        let client = Client::with_token(&world.url(), "main", token);
        assert_eq!(client.open(&[&package]).await.unwrap_err().status, 401, "{token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_nobody_elses() {
    let world = World::new().await;
    let package = Package::noise("tool", 1000);
    let opened = world.client().await.open(&[&package]).await.unwrap();
    // The same repository and ref, but another run, attempt or job.
    for job in [
        Job { run_id: 1, ..Job::default() },
        Job { run_attempt: 2, ..Job::default() },
        Job { check_run_id: 1, ..Job::default() },
    ] {
        let other = world.exchange(&job).await.unwrap();
        let refusal = other.commit(opened.push).await.unwrap_err();
        assert_eq!(refusal.answer.error, ErrorCode::NotFound);
        assert_eq!(other.send(opened.push, &[&package]).await.unwrap_err().status, 404);
    }
    // The same job with a new session.
    let again = world.client().await;
    again.send(opened.push, &[&package]).await.unwrap();
    again.commit(opened.push).await.unwrap();
}
