//! How often somebody may come, whichever replica is asked.

use std::time::Duration;

use larder_service::clock::Clock;
use larder_tests::{github::Job, world::Scene};
use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::scene::{Servers, Site};

/// Half of what may be exchanged in a minute.
const EACH: i64 = 30;

async fn exchange(site: &Site, replica: usize) -> Response {
    let id_token = site.github.id_token(&Job::default(), &site.nginx.url());
    let request = reqwest::Client::new().post(format!("{}/api/v1/token", site.replicas[replica].url()));
    request.json(&json!({ "id_token": id_token, "cache": "main" })).send().await.unwrap()
}

/// Waits until the database says this.
async fn until(database: &mut PgConnection, what: &'static str, seconds: i64) {
    let wait = async {
        while !sqlx::query_scalar::<_, bool>(what).bind(seconds).fetch_one(&mut *database).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_up_at_one_replica_is_refused_at_the_other_and_forgotten_when_it_counts_no_more() {
    let servers = Servers::start().await;
    let scene = servers.scene();
    let limits = format!("{}\n[limits]\nexchanges_per_repository = {}\n", scene.limits, 60 / EACH);
    let site = Site::on(servers, &Scene { limits, ..scene }, 2).await;
    let mut database = PgConnection::connect(&site.servers.postgres.url()).await.unwrap();

    let began = Clock::System.now();
    for _ in 0..2 {
        assert_eq!(exchange(&site, 0).await.status(), StatusCode::OK);
    }
    until(
        &mut database,
        "SELECT EXISTS (SELECT FROM paces WHERE used_until >= 1000000 * $1)",
        began + 2 * EACH,
    )
    .await;
    // The other learns of it when somebody comes there. By itself it would let by the next as well.
    assert_eq!(exchange(&site, 1).await.status(), StatusCode::OK);
    site.replicas[1].says(&["exchanges_per_repository", "what was used here is shared"]).await;
    let refused = exchange(&site, 1).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let after: i64 = refused.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=2 * EACH).contains(&after), "{after}");
    let answer = refused.text().await.unwrap();
    assert!(answer.contains("limits.exchanges_per_repository"), "{answer}");

    // What the address took is past in a moment, and what the repository did is not.
    until(
        &mut database,
        "SELECT NOT EXISTS (SELECT FROM paces WHERE used_until <= 1000000 * $1)",
        began + EACH,
    )
    .await;
    let furthest: i64 = sqlx::query_scalar("SELECT max(used_until) / 1000000 FROM paces")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert!((began + 3 * EACH..=Clock::System.now() + 120).contains(&furthest), "{furthest}");
}
