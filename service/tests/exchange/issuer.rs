//! An issuer of ID tokens: discovery and keys on a port of its own, and tokens that a test may spoil.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    },
};
use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A key, and the name that the issuer gives it.
pub struct Key {
    pub id: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(KeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub fn new(id: &'static str) -> Arc<Self> {
        Arc::new(Self { id, pair: Pair::Rsa(KeyPair::generate(KeySize::Rsa2048).unwrap()) })
    }

    pub fn p256(id: &'static str) -> Arc<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Arc::new(Self { id, pair: Pair::P256(pair) })
    }

    pub fn ed25519(id: &'static str) -> Arc<Self> {
        Arc::new(Self { id, pair: Pair::Ed25519(Ed25519KeyPair::generate().unwrap()) })
    }

    /// The algorithm that it is for.
    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let modulus = text(public.modulus().big_endian_without_leading_zero());
                let exponent = text(public.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": modulus, "e": exponent})
            }
            Pair::P256(pair) => {
                // An uncompressed point: a byte that says so, x and y.
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        };
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm());
        jwk["kid"] = json!(self.id);
        jwk
    }

    /// The public key as an attacker would feed it to HS256.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::P256(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

pub fn encode(part: &Value) -> String {
    BASE64URL_NOPAD.encode(part.to_string().as_bytes())
}

/// A token of this header and payload, signed by `sign`.
pub fn token(header: &Value, payload: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = BASE64URL_NOPAD.encode(&sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// How the issuer answers.
pub enum Mood {
    Well,
    Failing,
    Redirecting,
    /// Discovery is in order, and the keys are elsewhere.
    RedirectingKeys,
    /// Says that it is another issuer.
    Lying,
    /// Says that its keys lie here.
    KeysAt(&'static str),
    Endless,
}

pub struct Issuer {
    pub url: String,
    pub keys: Mutex<Vec<Value>>,
    pub mood: Mutex<Mood>,
    /// How often discovery was asked for.
    pub asked: AtomicUsize,
    /// Each answer takes a permit; a test that wants to hold answers back takes them all.
    pub gate: Semaphore,
    /// A permit appears with each request.
    pub arrived: Semaphore,
}

impl Issuer {
    pub async fn start(keys: Vec<Value>) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            keys: Mutex::new(keys),
            mood: Mutex::new(Mood::Well),
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(1),
            arrived: Semaphore::new(0),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/elsewhere", get(async || "x"))
            .route("/keys", get(keys_document))
            .route("/keys-elsewhere", get(the_keys))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        issuer
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Response {
    issuer.asked.fetch_add(1, Ordering::SeqCst);
    issuer.arrived.add_permits(1);
    let _open = issuer.gate.acquire().await.unwrap();
    let answer = |keys: String| Json(json!({"issuer": issuer.url, "jwks_uri": keys})).into_response();
    match &*issuer.mood.lock().unwrap() {
        Mood::Well | Mood::RedirectingKeys => answer(format!("{}/keys", issuer.url)),
        Mood::Failing => http::StatusCode::BAD_GATEWAY.into_response(),
        Mood::Redirecting => axum::response::Redirect::temporary("/elsewhere").into_response(),
        Mood::Lying => {
            Json(json!({"issuer": "https://other.example.org", "jwks_uri": format!("{}/keys", issuer.url)}))
                .into_response()
        }
        Mood::KeysAt(place) => answer((*place).to_owned()),
        Mood::Endless => {
            let pieces = futures_util::stream::repeat_with(|| {
                Ok::<_, std::convert::Infallible>([b' '; 8192].to_vec())
            });
            axum::body::Body::from_stream(pieces).into_response()
        }
    }
}

async fn keys_document(State(issuer): State<Arc<Issuer>>) -> Response {
    if matches!(&*issuer.mood.lock().unwrap(), Mood::RedirectingKeys) {
        return axum::response::Redirect::temporary("/keys-elsewhere").into_response();
    }
    the_keys(State(issuer)).await.into_response()
}

async fn the_keys(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    Json(json!({ "keys": *issuer.keys.lock().unwrap() }))
}
