//! How often somebody may come, and how much he may send.

use http::{HeaderMap, Method, Response, StatusCode, header};
use larder_service::{
    audit::Kind,
    metadata::{AuditFilter, AuditRow},
};
use serde_json::{Value, json};

use crate::{
    pushes::opening,
    world::{World, read},
};

const LIMITS: &str = "[limits]\nexchanges_per_address = 5\nexchanges_per_repository = 3\n\
                      push_requests_per_address = 100\npush_requests_per_identity = 60\n";

fn exchange(id_token: &str) -> Vec<u8> {
    json!({"id_token": id_token, "cache": "main"}).to_string().into_bytes()
}

fn forwarded(for_whom: &str) -> HeaderMap {
    HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), for_whom.parse().unwrap())])
}

async fn slowed(answer: Response<axum::body::Body>, retry_after: u64, limit: &str) {
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()[header::RETRY_AFTER], retry_after.to_string());
    let answer: Value = read(answer).await;
    assert_eq!(answer["error"], "too-many");
    assert!(answer["message"].as_str().unwrap().contains(limit), "no {limit} in {answer}");
}

async fn limited(world: &World) -> Vec<AuditRow> {
    world.service.audit.flush().await;
    let filter = AuditFilter { kind: Some(Kind::Limited), limit: 100, ..AuditFilter::default() };
    world.service.metadata.audit(&filter).await.unwrap()
}

#[tokio::test]
async fn a_repository_exchanges_so_many_tokens_in_a_minute() {
    let world = World::configured(LIMITS).await;
    for _ in 0..3 {
        world.session().await;
    }
    let one_more = || world.call(Method::POST, "/api/v1/token", None, exchange(&world.id_token()));
    slowed(one_more().await, 20, "more than 3 such requests in a minute (limits.exchanges_per_repository)")
        .await;
    // Another repository is not held up by it.
    let mut claims = world.claims();
    claims["repository_id"] = json!("43");
    claims["repository"] = json!("acme/other");
    let (status, _) = world.exchange(&world.sign(&claims)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "no rule lets it push, and that is what it is told");
    // Nor is who brings a token that is none: that costs the repository nothing.
    world.refuses("x", StatusCode::UNAUTHORIZED, "three parts").await;

    world.pass(19);
    slowed(one_more().await, 1, "exchanges_per_repository").await;
    world.pass(1);
    world.session().await;
    let limited = limited(&world).await;
    assert_eq!((limited.len(), limited[0].times), (1, 2));
    assert_eq!(limited[0].repository.as_deref(), Some("acme/flake"));
}

#[tokio::test]
async fn an_address_tries_so_many_tokens_in_a_minute_before_any_is_verified() {
    let world = World::configured(LIMITS).await;
    let attempt = |peer: &'static str, headers: HeaderMap| {
        world.call_with(Some(peer), headers, Method::POST, "/api/v1/token", exchange("nonsense"))
    };
    for made_up in ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4", "5.5.5.5"] {
        // What it says of itself changes nothing.
        assert_eq!(attempt("203.0.113.1", forwarded(made_up)).await.status(), StatusCode::UNAUTHORIZED);
    }
    slowed(attempt("203.0.113.1", forwarded("6.6.6.6")).await, 12, "limits.exchanges_per_address").await;
    assert_eq!(attempt("203.0.113.2", HeaderMap::new()).await.status(), StatusCode::UNAUTHORIZED);

    // The same behind a proxy on this machine: each client has a pace of its own.
    for _ in 0..5 {
        let answer = attempt("127.0.0.1", forwarded("198.51.100.7")).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    slowed(attempt("127.0.0.1", forwarded("198.51.100.7")).await, 12, "exchanges_per_address").await;
    slowed(attempt("127.0.0.1", forwarded("203.0.113.1")).await, 12, "exchanges_per_address").await;
    for _ in 0..10 {
        // A proxy that does not say for whom it speaks: one client must not hold up all others.
        assert_eq!(attempt("127.0.0.1", HeaderMap::new()).await.status(), StatusCode::UNAUTHORIZED);
    }
    // One network of IPv6 is one client.
    for client in ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5"] {
        assert_eq!(attempt(client, HeaderMap::new()).await.status(), StatusCode::UNAUTHORIZED);
    }
    slowed(attempt("2001:db8::6", HeaderMap::new()).await, 12, "exchanges_per_address").await;

    let addresses: Vec<_> = limited(&world).await.into_iter().map(|row| row.address.unwrap()).collect();
    assert_eq!(addresses, ["203.0.113.1", "198.51.100.7", "2001:db8::6"]);
}

#[tokio::test]
async fn a_job_sends_so_many_requests_in_a_minute_and_reads_as_many_as_it_likes() {
    let world = World::configured(LIMITS).await;
    let session = world.session().await;
    let post = |token: &str, peer: &'static str| {
        let bearer = format!("Bearer {token}").parse().unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        world.call_with(Some(peer), headers, Method::POST, "/api/v1/caches/main/pushes", b"{}".to_vec())
    };
    for _ in 0..60 {
        assert_eq!(post(&session, "203.0.113.1").await.status(), StatusCode::BAD_REQUEST);
    }
    slowed(post(&session, "203.0.113.1").await, 1, "limits.push_requests_per_identity").await;
    // Another session of the same job has the same pace, from wherever it comes; another job has its own.
    let again = world.session().await;
    slowed(post(&again, "203.0.113.9").await, 1, "push_requests_per_identity").await;
    let mut claims = world.claims();
    claims["check_run_id"] = json!("5001");
    let (_, answer) = world.exchange(&world.sign(&claims)).await;
    let other = answer["token"].as_str().unwrap();
    for _ in 0..39 {
        assert_eq!(post(other, "203.0.113.1").await.status(), StatusCode::BAD_REQUEST);
    }
    slowed(post(other, "203.0.113.1").await, 1, "limits.push_requests_per_address").await;
    assert_eq!(post(other, "203.0.113.2").await.status(), StatusCode::BAD_REQUEST);

    // Reading is never slowed: Nix would wait for a minute, or fail the build.
    for page in ["/main/nix-cache-info", "/api/v1/caches/main"] {
        for _ in 0..200 {
            let answer =
                world.call_with(Some("203.0.113.1"), HeaderMap::new(), Method::GET, page, vec![]).await;
            assert_eq!(answer.status(), StatusCode::OK, "{page}");
        }
    }
    world.pass(1);
    assert_eq!(post(&session, "203.0.113.1").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn heads_and_small_bodies_that_are_too_long_are_told_the_limit_and_its_key() {
    let world = World::configured("[limits]\nmax_head = \"4 KiB\"\nmax_small_body = \"20 KiB\"\n").await;
    let padded = |length: usize| {
        HeaderMap::from_iter([("x-pad".parse().unwrap(), "a".repeat(length).parse().unwrap())])
    };
    for page in ["/main/nix-cache-info", "/no/such/page"] {
        let answer = world.call_with(None, padded(4100), Method::GET, page, vec![]).await;
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let answer: Value = read(answer).await;
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("4 KiB") && message.contains("limits.max_head"), "{message}");
    }
    let long = format!("/main/nix-cache-info?{}", "a".repeat(4100));
    let answer = world.call(Method::GET, &long, None, vec![]).await;
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let answer = world.call_with(None, padded(3900), Method::GET, "/main/nix-cache-info", vec![]).await;
    assert_eq!(answer.status(), StatusCode::OK);

    for (length, status) in
        [(20 << 10, StatusCode::BAD_REQUEST), ((20 << 10) + 1, StatusCode::PAYLOAD_TOO_LARGE)]
    {
        let answer = world.call(Method::POST, "/api/v1/token", None, vec![b' '; length]).await;
        assert_eq!(answer.status(), status);
        let message = read(answer).await["message"].as_str().unwrap().to_owned();
        let told = message.contains("20 KiB (limits.max_small_body)");
        assert_eq!(told, status == StatusCode::PAYLOAD_TOO_LARGE, "{message}");
    }
}

#[tokio::test]
async fn so_many_pushes_may_be_open_and_abandoned_ones_do_not_count() {
    let world = World::configured(
        "[limits]\nmax_open_pushes_per_identity = 2\nmax_open_pushes_per_cache = 3\nmax_open_pushes = 4\n",
    )
    .await;
    let session = async |cache: &str, check_run: &str| {
        let mut claims = world.claims();
        claims["check_run_id"] = json!(check_run);
        if cache == "other" {
            claims["repository"] = json!("secret/project");
            claims["repository_id"] = json!("77");
        }
        let (status, answer) = world.exchange_for(cache, &world.sign(&claims)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    };
    let open = async |cache: &str, token: &str| {
        let pushes = format!("/api/v1/caches/{cache}/pushes");
        world.call(Method::POST, &pushes, Some(token), opening("x")).await
    };
    let first = session("main", "1").await;
    let opened = open("main", &first).await;
    assert_eq!(opened.status(), StatusCode::OK);
    let push = read(opened).await["push"].as_str().unwrap().to_owned();
    assert_eq!(open("main", &first).await.status(), StatusCode::OK);
    slowed(open("main", &first).await, 30, "2 pushes are open of this job or token").await;
    let second = session("main", "2").await;
    assert_eq!(
        open("main", &second).await.status(),
        StatusCode::OK,
        "another job's are counted by themselves"
    );
    slowed(open("main", &second).await, 30, "(limits.max_open_pushes_per_cache)").await;
    let elsewhere = session("other", "3").await;
    assert_eq!(open("other", &elsewhere).await.status(), StatusCode::OK);
    slowed(open("other", &elsewhere).await, 30, "(limits.max_open_pushes)").await;

    // One of the first job's two is still being worked on: it counts, and the other does not any more.
    world.pass(14 * 60);
    let first = session("main", "1").await;
    let question = format!("/api/v1/caches/main/pushes/{push}/missing-chunks");
    assert_eq!(world.call(Method::POST, &question, Some(&first), vec![]).await.status(), StatusCode::OK);
    slowed(open("main", &first).await, 30, "max_open_pushes_per_identity").await;
    world.pass(60);
    assert_eq!(open("main", &first).await.status(), StatusCode::OK);
    slowed(open("main", &first).await, 30, "max_open_pushes_per_identity").await;
}
