//! An internet on loopback: https hosts that have archives, or that misbehave.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use http::{
    HeaderMap, StatusCode,
    header::{HOST, LOCATION},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use larder_service::flake::Internet;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{net::TcpListener, sync::Semaphore, task::AbortHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// What a host answers.
#[derive(Debug, Clone)]
pub enum Page {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Look there, with that status.
    Redirect(u16, String),
    /// Bytes without end.
    Endless,
    /// Nothing but a status.
    Status(u16),
    /// A length, and fewer bytes.
    Cut,
    /// The first of these bytes, and then nothing more.
    Held(Vec<u8>),
    /// These bytes, once a permit is added.
    Gated(Arc<Semaphore>, Vec<u8>),
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `https://host/path`.
    pub url: String,
    /// What else it said.
    pub headers: HeaderMap,
}

/// Hosts on loopback, each by its name.
pub struct ArchiveHosts {
    address: SocketAddr,
    root: String,
    names: HashMap<String, Vec<SocketAddr>>,
    shared: Arc<Mutex<Shared>>,
    server: AbortHandle,
}

#[derive(Default)]
struct Shared {
    pages: BTreeMap<String, Page>,
    asked: Vec<Asked>,
}

impl ArchiveHosts {
    /// Hosts of these names.
    pub async fn start(names: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names.clone()).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let server = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), shared.clone()));
        let names = names.into_iter().map(|name| (name, vec![address])).collect();
        Self { address, root: issuer.pem(), names, shared, server: server.abort_handle() }
    }

    /// Lets a name have other addresses.
    pub fn resolve(&mut self, name: &str, addresses: &[SocketAddr]) {
        self.names.insert(name.to_owned(), addresses.to_vec());
    }

    /// Where all of them listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who signs their certificates, in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// An internet of these hosts, in which `is_public` says what is everybody's.
    pub fn internet(&self, is_public: fn(SocketAddr) -> bool) -> Internet {
        Internet::model(self.names.clone(), is_public, self.root.clone().into_bytes())
    }

    /// What is answered at a URL without its query. 404 elsewhere.
    pub fn put(&self, url: &str, page: Page) {
        self.lock().pages.insert(url.to_owned(), page);
    }

    /// Takes what was asked for.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.lock().asked)
    }

    /// Takes the URLs that were asked for.
    pub fn take_urls(&self) -> Vec<String> {
        self.take_asked().into_iter().map(|asked| asked.url).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ArchiveHosts {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Mutex<Shared>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(async move {
            // Who does not like the certificate goes away.
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = tower_service(shared);
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(answer)).await;
        });
    }
}

fn tower_service(shared: Arc<Mutex<Shared>>) -> axum::Router {
    axum::Router::new().fallback(move |request: Request| {
        let shared = shared.clone();
        async move { answer(&shared, &request) }
    })
}

fn answer(shared: &Mutex<Shared>, request: &Request) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().host()).unwrap_or_default();
    let url = format!("https://{host}{}", request.uri().path());
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let page = shared.pages.get(&url).cloned();
    shared.asked.push(Asked { url, headers: request.headers().clone() });
    match page {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(Page::Bytes(bytes)) => bytes.into_response(),
        Some(Page::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Page::Redirect(status, to)) => {
            (StatusCode::from_u16(status).unwrap(), [(LOCATION, to)]).into_response()
        }
        Some(Page::Endless) => {
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            let pieces = stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
            Body::from_stream(pieces).into_response()
        }
        Some(Page::Cut) => {
            let pieces = [Ok(Bytes::from_static(&[0x1f, 0x8b, 8, 0])), Err(std::io::Error::other("cut"))];
            Body::from_stream(stream::iter(pieces)).into_response()
        }
        Some(Page::Gated(gate, bytes)) => {
            let piece = async move {
                gate.acquire().await.map_err(std::io::Error::other)?.forget();
                Ok::<_, std::io::Error>(Bytes::from(bytes))
            };
            Body::from_stream(stream::once(piece)).into_response()
        }
        Some(Page::Held(bytes)) => {
            let half = Bytes::copy_from_slice(&bytes[..bytes.len() / 2]);
            let pieces = stream::iter([Ok::<_, std::io::Error>(half)]).chain(stream::pending());
            Body::from_stream(pieces).into_response()
        }
    }
}

/// A `.tar.gz` of files below a top folder, as forges make them: name, contents.
pub fn tarball(top: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{top}/{name}"), contents.as_bytes()).unwrap();
    }
    let mut gzip = tar.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

/// The `narHash` of such files, as Nix makes it.
pub fn nar_hash(files: &[(&str, &str)]) -> String {
    use sha2::Digest as _;
    let scratch = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let file = scratch.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, contents).unwrap();
    }
    let mut hash = sha2::Sha256::new();
    larder_protocol::nar::dump(scratch.path(), |bytes| {
        hash.update(bytes);
        Ok(())
    })
    .unwrap();
    format!("sha256-{}", data_encoding::BASE64.encode(&hash.finalize()))
}
