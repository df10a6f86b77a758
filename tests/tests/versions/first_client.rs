//! A client of the first release, by hand, and one of a later release than this.

use data_encoding::HEXLOWER;
use larder_protocol::{api::PathInfo, narinfo::NarInfo};
use larder_tests::{
    github::Job,
    world::{Scene, World},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::recorded::{Exchange, FIRST, assert_says};

/// Who asks, and what it was told to call things.
struct Client<'a> {
    world: &'a World,
    token: String,
    names: Vec<(&'static str, String)>,
}

async fn world() -> World {
    World::with(Scene::saying("permissions = [\"push\", \"pin\"]")).await
}

impl<'a> Client<'a> {
    fn new(world: &'a World) -> Self {
        let id_token = world.github.id_token(&Job::default(), &world.url());
        Self { world, token: String::new(), names: vec![("ID_TOKEN", id_token)] }
    }

    fn named(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (stands, name)| text.replace(stands, name))
    }

    async fn send(&self, asks: &str, kind: &str, body: Vec<u8>) -> Response {
        let (method, page) = asks.split_once(' ').unwrap();
        let url = format!("{}{}", self.world.url(), self.named(page));
        let mut request = reqwest::Client::new().request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        request.header("Content-Type", kind).body(body).send().await.unwrap()
    }

    async fn send_json(&self, asks: &str, body: &Value) -> Response {
        self.send(asks, "application/json", self.named(&body.to_string()).into()).await
    }

    /// Asks as the first release does, and compares what is told.
    async fn ask(&mut self, exchange: &Exchange) {
        let Exchange { asks, sends, sends_bytes, status, is_told, is_told_bytes } = exchange;
        let answer = match (sends, sends_bytes) {
            (Some(json), _) => self.send_json(asks, json).await,
            (None, Some(bytes)) => {
                let bytes = HEXLOWER.decode(bytes.as_bytes()).unwrap();
                self.send(asks, "application/octet-stream", bytes).await
            }
            (None, None) => self.send(asks, "", Vec::new()).await,
        };
        let answered = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        assert_eq!(answered, *status, "{asks}: {}", String::from_utf8_lossy(&body));
        if let Some(bytes) = is_told_bytes {
            assert_eq!(HEXLOWER.encode(&body), *bytes, "{asks}");
        }
        let Some(recorded) = is_told else { return };
        let told: Value = serde_json::from_slice(&body).unwrap();
        let name = |key: &str| told[key].as_str().map(str::to_owned);
        for (stands, key) in [("PUSH", "push"), ("PREFETCH", "id")] {
            self.names.extend(name(key).map(|name| (stands, name)));
        }
        self.token = name("token").unwrap_or(std::mem::take(&mut self.token));
        assert_says(&told, recorded, asks);
    }

    async fn get(&self, page: &str) -> Response {
        self.world.get(page).await
    }
}

/// The body of the first request that goes to such a page.
fn sent_to(end: &str) -> Value {
    let sent = FIRST.iter().find(|exchange| exchange.asks.ends_with(end)).unwrap();
    sent.sends.clone().unwrap()
}

fn with_more(mut body: Value) -> Value {
    body["of_a_later_release"] = json!({ "more": [1] });
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_first_release_is_served_as_it_was() {
    let world = world().await;
    let mut client = Client::new(&world);
    for exchange in FIRST.iter() {
        client.ask(exchange).await;
        if exchange.asks.ends_with("/commit") {
            let info: PathInfo = serde_json::from_value(sent_to("/pushes")["paths"][0].clone()).unwrap();
            let narinfo = client.get(&format!("{}.narinfo", info.path.hash())).await.text().await.unwrap();
            let narinfo = NarInfo::parse(&narinfo).unwrap();
            let nar = client.get(&narinfo.url).await.bytes().await.unwrap();
            let nar = zstd::decode_all(&nar[..]).unwrap();
            assert_eq!(Sha256::digest(&nar)[..], info.nar_hash.0);
        }
    }
}

/// What a client of a later release may add, and what would be granted or kept otherwise than it means.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_client_says_besides_is_passed_over_or_refused_by_name() {
    let world = world().await;
    let mut client = Client::new(&world);
    let exchange = |end: &str| FIRST.iter().find(|exchange| exchange.asks.ends_with(end)).unwrap();
    let refuses = async |client: &Client<'_>, asks: &str, body: Value| {
        let answer = client.send_json(asks, &with_more(body)).await;
        assert_eq!(answer.status(), 400, "{asks}");
        let said: Value = answer.json().await.unwrap();
        assert_eq!(said["error"], "bad-request");
        assert!(said["message"].as_str().unwrap().contains("of_a_later_release"), "{said}");
    };
    refuses(&client, "POST /api/v1/token", sent_to("/token")).await;
    client.ask(exchange("/token")).await;
    refuses(&client, "PUT /api/v1/caches/main/pins/web", sent_to("/pins/web")).await;
    refuses(&client, "POST /api/v1/prefetches", sent_to("/prefetches")).await;
    for (asks, status) in
        [("POST /api/v1/caches/main/pushes", 200), ("POST /api/v1/caches/main/manifests", 204)]
    {
        let body = with_more(sent_to(asks.rsplit_once('/').unwrap().1));
        assert_eq!(client.send_json(asks, &body).await.status(), status, "{asks}");
    }
    // And pages that only a later release has.
    for asks in ["POST /api/v2/token", "GET /api/v1/caches/main/later", "PUT /api/v1/later"] {
        let answer = client.send_json(asks, &json!({})).await;
        assert_eq!(answer.status(), 404, "{asks}");
        let said: Value = answer.json().await.unwrap();
        assert_eq!(said["error"], "not-found");
        for part in ["version 1 of the API", "update larderd"] {
            assert!(said["message"].as_str().unwrap().contains(part), "{said}");
        }
    }
}
