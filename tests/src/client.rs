//! The API, called as the specification says and as a test likes: nothing is checked on this side.

use larder_protocol::{
    ChunkId, NarHash,
    api::{
        CacheInfo, CacheName, CommittedPush, ErrorAnswer, OpenPush, OpenedPush, PinRequest, PushId,
        RecipesAnswer, TokenAnswer, TokenRequest, UploadAnswer, is_missing,
    },
    recipe,
};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::package::{Package, upload_body};

/// Somebody with a session token for a cache.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    service: String,
    cache: CacheName,
    token: String,
    info: Option<CacheInfo>,
}

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What it says.
    pub answer: ErrorAnswer,
}

/// What a request gave.
pub type Answer<T> = Result<T, Refusal>;

impl Client {
    /// Trades an ID token for a session.
    pub async fn exchange(service: &str, cache: &str, id_token: &str) -> Answer<Self> {
        let http = reqwest::Client::new();
        let cache: CacheName = cache.parse().unwrap();
        let request = TokenRequest { id_token: id_token.to_owned(), cache };
        let sent = http.post(format!("{service}/api/v1/token")).json(&request);
        let answer: TokenAnswer = json(send(sent).await?).await;
        let info = Some(answer.cache.clone());
        Ok(Self { http, service: service.to_owned(), cache: answer.cache.name, token: answer.token, info })
    }

    /// Somebody with a token, good or bad.
    pub fn with_token(service: &str, cache: &str, token: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            service: service.to_owned(),
            cache: cache.parse().unwrap(),
            token: token.to_owned(),
            info: None,
        }
    }

    /// The same, asking in another way: of whoever has a certificate of its own.
    pub fn over(self, http: reqwest::Client) -> Self {
        Self { http, ..self }
    }

    /// The cache that the exchange gave a session for.
    pub fn cache(&self) -> &CacheInfo {
        self.info.as_ref().expect("a token that was not exchanged here")
    }

    /// The session token.
    pub fn token(&self) -> &str {
        &self.token
    }

    fn post(&self, page: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/caches/{}/pushes{page}", self.service, self.cache);
        self.http.post(url).bearer_auth(&self.token)
    }

    /// Opens a push with these paths, the last of them being the root.
    pub async fn open(&self, packages: &[&Package]) -> Answer<OpenedPush> {
        let paths: Vec<_> = packages.iter().map(|package| package.info.clone()).collect();
        let roots = paths.last().map(|info| info.path.clone()).into_iter().collect();
        self.open_push(&OpenPush { paths, roots, ..OpenPush::default() }).await
    }

    /// Opens a push.
    pub async fn open_push(&self, push: &OpenPush) -> Answer<OpenedPush> {
        Ok(json(send(self.post("").json(push)).await?).await)
    }

    /// Opens a push with a body of the test's own.
    pub async fn open_with(&self, body: impl Into<Body>) -> Answer<OpenedPush> {
        let request = self.post("").header("Content-Type", "application/json").body(body);
        Ok(json(send(request).await?).await)
    }

    /// Which of these chunks are missing.
    pub async fn missing(&self, push: PushId, chunks: &[ChunkId]) -> Answer<Vec<bool>> {
        let body: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.0).collect();
        let bits =
            send(self.post(&format!("/{push}/missing-chunks")).body(body)).await?.bytes().await.unwrap();
        Ok((0..chunks.len()).map(|position| is_missing(&bits, position).unwrap()).collect())
    }

    /// Sends frames.
    pub async fn upload(&self, push: PushId, body: impl Into<Body>) -> Answer<UploadAnswer> {
        Ok(json(send(self.post(&format!("/{push}/frames")).body(body)).await?).await)
    }

    /// Sends recipes.
    pub async fn recipes(&self, push: PushId, body: impl Into<Body>) -> Answer<RecipesAnswer> {
        Ok(json(send(self.post(&format!("/{push}/recipes")).body(body)).await?).await)
    }

    /// Publishes.
    pub async fn commit(&self, push: PushId) -> Answer<CommittedPush> {
        Ok(json(send(self.post(&format!("/{push}/commit"))).await?).await)
    }

    /// Pins a path.
    pub async fn pin(&self, name: &str, request: &PinRequest) -> Answer<()> {
        let url = format!("{}/api/v1/caches/{}/pins/{name}", self.service, self.cache);
        send(self.http.put(url).bearer_auth(&self.token).json(request)).await.map(drop)
    }

    /// Sends all chunks and recipes of these packages, and expects no refusal but of recipes.
    pub async fn send(&self, push: PushId, packages: &[&Package]) -> Answer<RecipesAnswer> {
        let (mut recipes, mut frames) = (Vec::new(), Vec::new());
        for package in packages {
            let (recipe, its) = package.cut();
            recipes.push(recipe);
            frames.extend(its);
        }
        self.upload(push, upload_body(&frames)).await?;
        self.recipes(push, recipe::encode(&recipes)).await
    }

    /// A whole push.
    pub async fn push(&self, packages: &[&Package]) -> Answer<CommittedPush> {
        let opened = self.open(packages).await?;
        if let Some(committed) = opened.committed {
            return Ok(committed);
        }
        let missing: Vec<&Package> =
            packages.iter().copied().filter(|p| opened.missing.contains(&p.info.path.hash())).collect();
        let answer = self.send(opened.push, &missing).await?;
        assert!(answer.rejected.is_empty(), "{:?}", answer.rejected);
        let wanted: Vec<NarHash> = missing.iter().map(|package| package.info.nar_hash).collect();
        assert!(wanted.iter().all(|hash| answer.verified.contains(hash)), "{answer:?}");
        self.commit(opened.push).await
    }
}

/// Sends a request; again where a proxy says that whoever had it died, as all who push do.
async fn send(request: RequestBuilder) -> Answer<Response> {
    let again = request.try_clone();
    let mut response = request.send().await.unwrap();
    for _ in 0..5 {
        match again.as_ref().and_then(RequestBuilder::try_clone) {
            Some(again) if response.status() == StatusCode::BAD_GATEWAY => {
                response = again.send().await.unwrap()
            }
            _ => break,
        }
    }
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap();
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text:?}"));
    Err(Refusal { status, answer })
}

async fn json<T: DeserializeOwned>(response: Response) -> T {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
