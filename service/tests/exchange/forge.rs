//! GitHub's API, asked what names stand for.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::StatusCode;
use larder_service::trust::resolve_names;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{issuer::Key, world::World};

/// What the stand-in says of each page, and what it was asked.
struct Api {
    url: String,
    pages: Vec<(&'static str, Page)>,
    asked: Mutex<Vec<String>>,
    arrived: Semaphore,
    gate: Semaphore,
}

#[derive(Clone)]
enum Page {
    Is(Value),
    Moved,
    Fails(u16),
    /// Once the gate is open.
    Held(Value),
    Never,
}

impl Api {
    async fn start(pages: Vec<(&'static str, Page)>) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        // As an Enterprise Server has it.
        let url = format!("http://{}/api/v3", listener.local_addr().unwrap());
        let api = Arc::new(Self {
            url,
            pages,
            asked: Mutex::default(),
            arrived: Semaphore::new(0),
            gate: Semaphore::new(0),
        });
        let router = Router::new().route("/api/v3/{*page}", get(answer)).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        api
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn answer(State(api): State<Arc<Api>>, Path(page): Path<String>) -> Response {
    api.asked.lock().unwrap().push(page.clone());
    api.arrived.add_permits(1);
    match api.pages.iter().find(|(known, _)| *known == page).map(|(_, page)| page.clone()) {
        Some(Page::Is(value)) => Json(value).into_response(),
        Some(Page::Moved) => Redirect::permanent("/api/v3/repositories/99").into_response(),
        Some(Page::Fails(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Page::Held(value)) => {
            drop(api.gate.acquire().await.unwrap());
            Json(value).into_response()
        }
        Some(Page::Never) => std::future::pending().await,
        None if page == "repositories/99" => Json(repository("acme/flake", 99, 98)).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn repository(name: &str, id: u64, owner_id: u64) -> Value {
    let owner = json!({"id": owner_id, "login": name.split('/').next(), "type": "Organization"});
    json!({"id": id, "full_name": name, "name": name.split('/').nth(1), "private": false, "owner": owner})
}

async fn world(api: &Api, rules: &str) -> World {
    let config = format!(
        "[[issuer]]\nurl = \"ISSUER\"\napi_url = \"{}\"\n[[cache]]\nname = \"main\"\n{rules}",
        api.url
    );
    World::with(Key::new("first"), &config).await
}

const MAIN: &str = "[[cache.trust]]\nrepository = \"Acme/flake\"\nref = \"refs/heads/main\"\n";

async fn names(world: &World) -> Vec<String> {
    let rows = world.service.metadata.all_bound_names().await.unwrap();
    rows.iter()
        .map(|row| format!("{} {} by {}", row.bound.name, row.bound.numbers, row.bound.source))
        .collect()
}

#[tokio::test]
async fn names_are_bound_before_the_first_token_comes() {
    let api = Api::start(vec![
        ("repos/acme/flake", Page::Is(repository("acme/Flake", 42, 7))),
        ("users/acme", Page::Is(json!({"id": 7, "login": "Acme"}))),
    ])
    .await;
    let rules = format!("{MAIN}[[cache.trust]]\nrepository = \"acme/nix-*\"\nref = \"refs/heads/main\"\n");
    let mut world = world(&api, &rules).await;
    resolve_names(&world.service).await;
    assert_eq!(
        names(&world).await,
        ["acme owner number 7 by api", "acme/flake repository number 42 of owner number 7 by api"]
    );
    // Another repository of that name is not the one that was meant, even if it comes first.
    let squatter = world.changed(&json!({"repository_id": "99", "repository_owner_id": "98"}));
    let reason = "is not what it was when it was first trusted";
    world.refuses(&squatter, StatusCode::FORBIDDEN, reason).await;

    // What is known is not asked again.
    assert_eq!(api.asked(), ["repos/acme/flake", "users/acme"]);
    world.restart().await;
    resolve_names(&world.service).await;
    assert!(api.asked().is_empty());
}

#[tokio::test]
async fn a_token_that_came_before_the_answer_does_not_keep_a_name_that_is_not_its() {
    let api = Api::start(vec![("repos/acme/flake", Page::Held(repository("acme/flake", 42, 7)))]).await;
    let world = world(&api, MAIN).await;
    let resolving = tokio::spawn({
        let service = world.service.clone();
        async move { resolve_names(&service).await }
    });
    api.arrived.acquire().await.unwrap().forget();
    let squatter = || world.changed(&json!({"repository_id": "99", "repository_owner_id": "98"}));
    assert_eq!(world.exchange(&squatter()).await.0, StatusCode::OK);
    api.gate.add_permits(1);
    resolving.await.unwrap();
    let reason = "is not what it was when it was first trusted";
    world.refuses(&squatter(), StatusCode::FORBIDDEN, reason).await;
    let [row] = &world.service.metadata.all_bound_names().await.unwrap()[..] else { panic!() };
    let found = row.bound.suspended.unwrap().found;
    assert_eq!(found.to_string(), "repository number 42 of owner number 7");
}

#[tokio::test]
async fn what_github_does_not_say_is_left_to_the_first_token() {
    for page in [
        Page::Moved,
        Page::Fails(404),
        Page::Fails(403),
        Page::Fails(500),
        Page::Is(repository("acme/renamed", 99, 98)),
        Page::Is(json!({"id": "42"})),
        Page::Is(json!({"full_name": "acme/flake", "padding": "x".repeat(300_000)})),
    ] {
        let api = Api::start(vec![("repos/acme/flake", page)]).await;
        let world = world(&api, MAIN).await;
        resolve_names(&world.service).await;
        assert_eq!(names(&world).await, [""; 0]);
        assert_eq!(api.asked(), ["repos/acme/flake"], "once, and nowhere else");
        world.session().await;
        assert_eq!(names(&world).await, ["acme/flake repository number 42 of owner number 7 by token"]);
    }
}

#[tokio::test]
async fn an_api_that_does_not_answer_delays_neither_start_nor_end() {
    let api = Api::start(vec![("repos/acme/flake", Page::Never)]).await;
    let world = world(&api, MAIN).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(larder_service::serve(world.service.clone(), listener, async {
        drop(stopped.await);
    }));
    api.arrived.acquire().await.unwrap().forget();
    // It is being asked, and jobs are served.
    world.session().await;
    stop.send(()).unwrap();
    serving.await.unwrap();
}
