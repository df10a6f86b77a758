//! `/metrics`.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use larder_service::{
    config::{ByteSize, Config},
    stats::{metrics, take_sample},
    verification::scrub_step,
};
use tower::ServiceExt as _;

use crate::{
    package,
    world::{DAY, World},
};

async fn scrape(world: &World) -> String {
    let request = Request::builder().uri("/metrics").body(Body::empty()).unwrap();
    let answer = metrics::router(world.service.clone()).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The value of a line of the exposition.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn the_numbers_are_told_by_the_fields_conventions() {
    let world = World::new().await;
    let nar = package(1, &[]);
    world.push(&world.job("main", 1).await, &[&nar]).await;
    assert!(world.has(&nar).await);
    assert!(world.narinfo(&package(2, &[])).await.is_none());
    world.sweep().await;
    assert_eq!(world.call(http::Method::POST, "/webhooks/github", None, Vec::new()).await.0, 403);
    let whole = take_sample(&world.service).await.unwrap();
    let text = scrape(&world).await;
    for (name, is) in [
        ("larder_pushes_opened_total", 1),
        ("larder_pushes_committed_total", 1),
        ("larder_paths_published_total", 1),
        ("larder_sweeps_total{outcome=\"done\"}", 1),
        ("larder_sweeps_total{outcome=\"failed\"}", 0),
        ("larder_jobs_total{outcome=\"done\"}", 0),
        ("larder_deliveries_total{outcome=\"refused\"}", 1),
        ("larder_narinfo_reads_total{cache=\"main\",result=\"hit\"}", 1),
        ("larder_narinfo_reads_total{cache=\"main\",result=\"miss\"}", 1),
        ("larder_narinfo_reads_total{cache=\"main~\",result=\"miss\"}", 0),
        ("larder_nar_reads_total{cache=\"main\"}", 1),
        ("larder_served_bytes_total{cache=\"main\"}", whole.traffic.bytes_served),
        ("larder_store_paths", 1),
        ("larder_store_stored_bytes", whole.held.stored_bytes.unwrap()),
        ("larder_cache_raw_bytes{cache=\"main\"}", nar.info.nar_size),
        ("larder_cache_roots{cache=\"main\",kind=\"run\"}", 1),
        ("larder_repository_paths{cache=\"main\",repository=\"acme/flake\"}", 1),
        ("larder_http_request_duration_seconds_count{route=\"/{cache}/{file}\",status=\"2xx\"}", 1),
        ("larder_http_request_duration_seconds_count{route=\"/{cache}/{file}\",status=\"4xx\"}", 1),
        (
            "larder_http_request_duration_seconds_bucket{le=\"+Inf\",route=\"/{cache}/nar/{file}\",status=\"2xx\"}",
            1,
        ),
    ] {
        assert_eq!(value(&text, name).to_string(), is.to_string(), "{name}");
    }
    assert!(value(&text, "larder_uploaded_bytes_total") > 50_000.0);
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn what_verifications_find_is_told_until_it_came_again() {
    let world = World::new().await;
    let (anna, nars) = (world.person().await, [package(1, &[]), package(2, &[])]);
    for nar in &nars {
        world.push(&anna, &[nar]).await;
    }
    let text = scrape(&world).await;
    assert_eq!(value(&text, "larder_waiting_paths").to_string(), "0");
    assert!(!text.contains("larder_scrub_timestamp_seconds "), "there was none yet");

    let frames = world.objects().by_age("frames").await.remove(0);
    world.objects().change(&frames, |bytes| bytes[3000] ^= 1).await;
    while scrub_step(&world.service).await.unwrap() {}
    let scrubbed_at = world.now();
    let told = |text: &str, numbers: &[(&str, i64)]| {
        for (name, is) in numbers {
            assert_eq!(value(text, name).to_string(), is.to_string(), "{name}");
        }
    };
    told(
        &scrape(&world).await,
        &[
            ("larder_verified_nars_total", 1),
            ("larder_verified_paths_total", 1),
            ("larder_verify_findings_total{outcome=\"withdrawn\"}", 1),
            ("larder_verify_findings_total{outcome=\"mended\"}", 0),
            ("larder_verify_findings_total{outcome=\"lost\"}", 0),
            ("larder_withdrawn_paths_total", 1),
            ("larder_waiting_paths", 1),
            ("larder_scrubs_total", 1),
            ("larder_scrub_timestamp_seconds", scrubbed_at),
        ],
    );

    for nar in &nars {
        world.push(&anna, &[nar]).await;
    }
    // The next round is under way; the last one is told of still.
    world.pass(30 * DAY);
    assert!(scrub_step(&world.service).await.unwrap());
    let text = scrape(&world).await;
    told(&text, &[("larder_waiting_paths", 0), ("larder_scrub_timestamp_seconds", scrubbed_at)]);
    told(&text, &[("larder_withdrawn_paths_total", 1), ("larder_scrubs_total", 1)]);
    assert!(value(&text, "larder_verified_frames_total") >= 2.0);
    assert!(value(&text, "larder_verified_bytes_total") > 100_000.0);
}

/// Strangers make no new lines, whatever they ask for, and cannot ask for the numbers.
#[tokio::test]
async fn what_strangers_ask_for_makes_no_label_and_tells_them_nothing() {
    let world = World::new().await;
    for page in ["/metrics", "/nowhere/at/all/a", "/nowhere/at/all/b", "/none/x.narinfo", "/api/v1/none"] {
        assert_eq!(world.call(http::Method::GET, page, None, Vec::new()).await.0, 404, "{page}");
    }
    let text = scrape(&world).await;
    assert!(!text.contains("nowhere") && !text.contains("cache=\"none\""), "{text}");
    let none = "larder_http_request_duration_seconds_count{route=\"none\",status=\"4xx\"}";
    assert_eq!(value(&text, none).to_string(), "4");
}

#[tokio::test]
async fn the_rules_for_alarms_ask_for_what_is_told() {
    fn budget(config: &mut Config) {
        config.retention.max_size = Some(ByteSize::mebibytes(100));
    }
    let world = World::with(budget).await;
    assert!(world.narinfo(&package(1, &[])).await.is_none());
    while scrub_step(&world.service).await.unwrap() {}
    take_sample(&world.service).await.unwrap();
    let told = scrape(&world).await;
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/larder.rules.yml");
    let rules = std::fs::read_to_string(rules).unwrap();
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut names: Vec<_> = words.filter(|word| word.starts_with("larder_")).collect();
    names.dedup();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let is_told = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert!(told.lines().any(is_told), "{name} is not told:\n{told}");
    }
}
