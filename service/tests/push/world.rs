//! A service, and a client that pushes by hand.
use std::sync::Arc;

use larder_protocol::{
    api::{CacheName, CommittedPush, OpenPush, OpenedPush, Permission, RecipesAnswer, UploadAnswer},
    chunk::{CutChunk, FrameEncoder},
    narinfo::NarInfo,
    recipe::{self, Recipe},
    upload::{FrameEntry, encode_index},
};
use larder_service::{
    Service,
    audit::{Entry, Event, Who},
    clock::Clock,
    config::Config,
    serve,
    trust::{Grant, GrantedTo, SecretToken, people},
};
use reqwest::StatusCode;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::nar::TestNar;
use crate::test_servers;

/// A service in this process, and a client with a token.
pub struct World {
    pub url: String,
    pub token: String,
    pub client: reqwest::Client,
    pub service: Arc<Service>,
    pub stop: oneshot::Sender<()>,
    pub served: JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(data.path());
        test_servers::place(&mut config, data.path()).await;
        // A test asks nobody on the network.
        config.caches[0].upstreams.clear();
        change(&mut config);
        let service = Service::open(config, Clock::System).await.unwrap();
        let main = "main".parse().unwrap();
        let token = people::create_token(
            &service.metadata,
            &service.clock,
            people::NewToken::pushing("test", &main, 3600),
        )
        .await
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(service.clone(), listener, async {
            let _ = stopped.await;
        }));
        let token = token.expose().to_owned();
        Self { url, token, client: reqwest::Client::new(), service, stop, served, _data: data }
    }

    /// A token of somebody whose pushes have a rank, and who may do more than push.
    pub async fn token_of(&self, name: &str, rank: i64, more: &[Permission]) -> String {
        let token = SecretToken::generate("larder_t_").unwrap();
        let main: CacheName = "main".parse().unwrap();
        let grant = Grant {
            cache: main.clone(),
            permissions: [&[Permission::Push], more].concat(),
            identity: GrantedTo::Person { name: name.to_owned(), token: name.to_owned() },
            rank: rank.try_into().unwrap(),
            isolated: None,
        };
        let now = self.service.clock.now();
        let made = Event::TokenCreated { name: name.to_owned(), permissions: Vec::new(), until: now + 3600 };
        let entry = Entry::in_cache(&main, Who::default(), made);
        let metadata = &self.service.metadata;
        assert!(
            metadata.create_named_token(token.hash(), &grant, name, now, now + 3600, &entry).await.unwrap()
        );
        token.expose().to_owned()
    }

    pub async fn post(&self, path: &str, body: Vec<u8>) -> reqwest::Response {
        let url = format!("{}/api/v1/caches/main/pushes{path}", self.url);
        self.client.post(url).bearer_auth(&self.token).body(body).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}/main/{path}", self.url)).send().await.unwrap()
    }

    pub async fn open(&self, nars: &[&TestNar]) -> OpenedPush {
        let open = OpenPush {
            paths: nars.iter().map(|nar| nar.info.clone()).collect(),
            roots: nars.iter().map(|nar| nar.info.path.clone()).collect(),
            ..OpenPush::default()
        };
        let answer = self.post("", serde_json::to_vec(&open).unwrap()).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    pub async fn upload(&self, push: &OpenedPush, chunks: &[CutChunk]) -> UploadAnswer {
        let answer = self.post(&format!("/{}/frames", push.push), upload_body(chunks)).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    pub async fn send_recipes(&self, push: &OpenedPush, nars: &[&TestNar]) -> RecipesAnswer {
        let recipes: Vec<Recipe> = nars.iter().map(|nar| nar.recipe()).collect();
        let answer = self.post(&format!("/{}/recipes", push.push), recipe::encode(&recipes)).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    pub async fn commit(&self, push: &OpenedPush) -> reqwest::Response {
        self.post(&format!("/{}/commit", push.push), Vec::new()).await
    }

    /// Pushes paths that are missing, and commits.
    pub async fn push(&self, nars: &[&TestNar]) -> CommittedPush {
        let opened = self.open(nars).await;
        for nar in nars {
            self.upload(&opened, &nar.chunks).await;
        }
        assert!(self.send_recipes(&opened, nars).await.rejected.is_empty());
        self.commit(&opened).await.json().await.unwrap()
    }

    pub async fn narinfo(&self, nar: &TestNar) -> Option<NarInfo> {
        let answer = self.get(&format!("{}.narinfo", nar.info.path.hash())).await;
        match answer.status() {
            StatusCode::OK => Some(NarInfo::parse(&answer.text().await.unwrap()).unwrap()),
            StatusCode::NOT_FOUND => None,
            status => panic!("{status}"),
        }
    }

    pub async fn end(self) {
        drop(self.stop);
        self.served.await.unwrap();
    }
}

pub fn upload_body(chunks: &[CutChunk]) -> Vec<u8> {
    let mut encoder = FrameEncoder::default();
    let (mut entries, mut frames) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let frame = encoder.encode(&chunk.content, &chunk.holes);
        entries.push(FrameEntry::of(chunk.id, chunk.content.len(), &frame).unwrap());
        frames.extend(frame.bytes);
    }
    [encode_index(&entries), frames].concat()
}
