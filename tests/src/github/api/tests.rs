//! That the stand-in is as strict as GitHub.

use std::sync::{Arc, atomic::AtomicI64};

use larder_service::clock::Clock;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{App, HookOf};
use crate::github::{Claims, GitHub, Signed};

const NOW: i64 = 1_790_078_400;

async fn github() -> GitHub {
    GitHub::start(Clock::Set(Arc::new(AtomicI64::new(NOW)))).await
}

/// An App's own token, with these times.
fn jwt(github: &GitHub, app: &App, issued: i64, expires: i64, signed: Signed) -> String {
    let claims = json!({ "iss": app.id.to_string(), "iat": issued, "exp": expires });
    let Value::Object(claims) = claims else { unreachable!() };
    let claims: Claims = claims;
    let state = github.hub.api();
    state.apps.iter().find(|known| known.id == app.id).unwrap().key.sign(&claims, signed)
}

fn good_jwt(github: &GitHub, app: &App) -> String {
    jwt(github, app, NOW - 60, NOW + 540, Signed::WithoutKid)
}

async fn ask(github: &GitHub, token: &str, method: Method, page: &str, body: &Value) -> Response {
    let mut request = reqwest::Client::new()
        .request(method, format!("{}{page}", github.api_url()))
        .header("User-Agent", "a test");
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if !body.is_null() {
        request = request.json(body);
    }
    request.send().await.unwrap()
}

async fn get(github: &GitHub, token: &str, page: &str) -> Response {
    ask(github, token, Method::GET, page, &Value::Null).await
}

async fn token(github: &GitHub, app: &App, installation: u64, narrowed: Value) -> Result<String, u16> {
    let page = format!("/app/installations/{installation}/access_tokens");
    let answer = ask(github, &good_jwt(github, app), Method::POST, &page, &narrowed).await;
    match answer.status().as_u16() {
        201 => Ok(answer.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned()),
        status => Err(status),
    }
}

#[tokio::test]
async fn an_apps_own_token_is_checked() {
    let github = github().await;
    let app = github.register_app(&[("contents", "read")]);
    let another = github.register_app(&[]);
    let status = async |token: &str| get(&github, token, "/app").await.status().as_u16();
    assert_eq!(status(&good_jwt(&github, &app)).await, 200);
    assert_eq!(status(&jwt(&github, &app, NOW, NOW + 600, Signed::WithoutKid)).await, 200);
    for refused in [
        jwt(&github, &app, NOW, NOW + 601, Signed::WithoutKid),
        jwt(&github, &app, NOW - 600, NOW, Signed::WithoutKid),
        jwt(&github, &app, NOW + 1, NOW + 600, Signed::WithoutKid),
        jwt(&github, &app, NOW, NOW + 600, Signed::ByAnother),
        jwt(&github, &app, NOW, NOW + 600, Signed::NotAtAll),
        jwt(&github, &app, NOW, NOW + 600, Signed::Hs256WithPublicKey),
        jwt(&github, &App { id: app.id, ..another.clone() }, NOW - 601, NOW - 1, Signed::WithoutKid),
        "ghs_guessed".to_owned(),
    ] {
        assert_eq!(status(&refused).await, 401, "{refused}");
    }
    assert_eq!(status("").await, 401);
}

#[tokio::test]
async fn a_token_reaches_what_it_was_narrowed_to() {
    let github = github().await;
    for name in ["acme/one", "acme/two", "other/three"] {
        github.add_private_repository(name);
        github.commit(name, "refs/heads/main", "aaaa", &[("dir/file", b"text")]);
    }
    let app = github.register_app(&[("contents", "read"), ("checks", "write")]);
    let installation = github.install(&app, "acme", None);
    let narrowed = |value: Value| token(&github, &app, installation, value);
    let one =
        narrowed(json!({ "repositories": ["one"], "permissions": { "contents": "read" } })).await.unwrap();
    let status = async |token: &str, page: &str| get(&github, token, page).await.status().as_u16();
    let file = |name: &str| format!("/repos/{name}/contents/dir/file?ref=aaaa");
    assert_eq!(status(&one, &file("acme/one")).await, 200);
    for (token, name) in [(one.as_str(), "acme/two"), (&one, "other/three"), ("", "acme/one")] {
        assert_eq!(status(token, &file(name)).await, 404, "{name}");
    }
    assert_eq!(status(&one, "/repos/acme/one/commits/aaaa/check-runs").await, 403);
    let wide = narrowed(Value::Null).await.unwrap();
    assert_eq!(status(&wide, "/repos/acme/two/commits/aaaa/check-runs").await, 200);
    // Nothing is granted that the installation has not, and nothing that is another's.
    assert_eq!(narrowed(json!({ "permissions": { "contents": "write" } })).await, Err(422));
    assert_eq!(narrowed(json!({ "repositories": ["three"] })).await, Err(422));
    assert_eq!(token(&github, &github.register_app(&[]), installation, Value::Null).await, Err(404));
    github.uninstall(installation);
    assert_eq!(status(&wide, &file("acme/one")).await, 401);
}

#[tokio::test]
async fn archives_come_from_elsewhere() {
    let github = github().await;
    github.add_repository("acme/flake");
    github.commit("acme/flake", "refs/heads/main", "0123456789abcdef", &[("flake.nix", b"{ }")]);
    let straight = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let page = format!("{}/repos/acme/flake/tarball/0123456789abcdef", github.api_url());
    let sent = straight.get(&page).header("User-Agent", "a test").send().await.unwrap();
    assert_eq!(sent.status(), 302);
    let origin = github.api_url().replace("/api/v3", "");
    for (url, folder) in [
        (page, "acme-flake-0123456"),
        (format!("{origin}/acme/flake/archive/0123456789abcdef.tar.gz"), "flake-0123456789abcdef"),
    ] {
        let client = reqwest::Client::builder().user_agent("a test").build().unwrap();
        let bytes = client.get(url).send().await.unwrap().bytes().await.unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, [format!("{folder}/flake.nix")]);
    }
}

#[tokio::test]
async fn limits_are_told_and_kept() {
    let github = github().await;
    github.add_repository("acme/flake");
    github.limit_requests(2);
    let ask = async || get(&github, "", "/repos/acme/flake").await;
    let answer = ask().await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["x-ratelimit-remaining"].to_str().unwrap()),
        (200, "1")
    );
    ask().await;
    let answer = ask().await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["x-ratelimit-remaining"].to_str().unwrap()),
        (403, "0")
    );
    assert_eq!(answer.headers()["x-ratelimit-reset"].to_str().unwrap(), (NOW + 3600).to_string());
    github.limit_requests(100);
    github.pause_requests(30, true);
    assert_eq!(ask().await.headers()["retry-after"].to_str().unwrap(), "30");
}

#[tokio::test]
async fn deliveries_are_listed_in_pages_and_sent_again() {
    let github = github().await;
    let app = github.register_app(&[]);
    // Nobody is there.
    let hook = github.add_hook(HookOf::App(app.id), "http://127.0.0.1:9/", "a secret of sixteen");
    for number in 0..5 {
        github.send_event(hook, "push", &json!({ "number": number })).await;
    }
    let jwt = good_jwt(&github, &app);
    let (mut page, mut seen) = ("/app/hook/deliveries?per_page=2".to_owned(), Vec::new());
    loop {
        let answer = get(&github, &jwt, &page).await;
        let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        seen.extend(answer.json::<Vec<Value>>().await.unwrap());
        let Some(link) = link else { break };
        let next = link.strip_prefix('<').unwrap().split_once(">; rel=\"next\"").unwrap().0.to_owned();
        page = next.strip_prefix(&github.api_url()).unwrap().to_owned();
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|one, next| one["id"].as_u64() > next["id"].as_u64()));
    assert!(seen.iter().all(|delivery| delivery["status_code"] == 502 && delivery["redelivery"] == false));
    let again = format!("/app/hook/deliveries/{}/attempts", seen[0]["id"]);
    assert_eq!(ask(&github, &jwt, Method::POST, &again, &Value::Null).await.status(), 202);
    github.delivered().await;
    let attempts = github.deliveries(hook);
    assert_eq!(attempts.len(), 6);
    assert!(attempts[5].redelivery && attempts[5].guid == seen[0]["guid"]);
    assert_eq!(ask(&github, "", Method::POST, &again, &Value::Null).await.status(), 401);
}

#[tokio::test]
async fn a_check_run_is_its_apps() {
    let github = github().await;
    github.add_repository("acme/flake");
    github.commit("acme/flake", "refs/heads/main", "aaaa", &[]);
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let app = github.register_app(&[("checks", "write")]);
        let installation = github.install(&app, "acme", Some(&["acme/flake"]));
        tokens.push(token(&github, &app, installation, Value::Null).await.unwrap());
    }
    let page = "/repos/acme/flake/check-runs";
    let run = |sha: &str, conclusion: &str| {
        json!({ "name": "x", "head_sha": sha, "external_id": "7", "conclusion": conclusion,
                "output": { "title": "t", "summary": "s" } })
    };
    let post = async |body: &Value| ask(&github, &tokens[0], Method::POST, page, body).await;
    for refused in [run("bbbb", "success"), run("aaaa", "fine"), json!({ "name": "x" })] {
        assert_eq!(post(&refused).await.status(), 422, "{refused}");
    }
    let made: Value = post(&run("aaaa", "success")).await.json().await.unwrap();
    assert_eq!(made["status"], "completed");
    let this = format!("{page}/{}", made["id"]);
    let change = json!({ "conclusion": "failure" });
    assert_eq!(ask(&github, &tokens[1], Method::PATCH, &this, &change).await.status(), 403);
    assert_eq!(ask(&github, &tokens[0], Method::PATCH, &this, &change).await.status(), 200);
    let listed: Value = get(&github, &tokens[0], "/repos/acme/flake/commits/main/check-runs?check_name=x")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (listed["total_count"].as_u64(), &listed["check_runs"][0]["conclusion"]),
        (Some(1), &json!("failure"))
    );
}
