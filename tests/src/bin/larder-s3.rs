//! An S3 server over a folder, as a program, so that it can be stopped, killed and started again. It prints the address on
//! which it listens, and ends when its standard input does.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
};

use clap::Parser;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::SimpleAuth,
    host::MultiDomain,
    s3_error,
    service::S3ServiceBuilder,
};
use s3s_fs::FileSystem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Below it each bucket has a host, on the same port.
const DOMAIN: &str = "s3.example.org";

/// An S3 server over a folder.
#[derive(Parser)]
struct Arguments {
    /// Where to listen. Port 0 asks the system for a free one.
    listen: SocketAddr,
    /// The folder, which has one for each bucket.
    root: PathBuf,
    /// Who may ask.
    access_key: String,
    /// By which secret.
    secret_key: String,
    /// Where each request is noted that was signed so: its method, path and range.
    #[arg(default_value = "/dev/null")]
    requests: PathBuf,
}

/// Takes what is signed, and notes it before it is answered.
struct Noting(File);

impl S3Access for Noting {
    fn check<'a, 'b, 'c, 'd>(
        &'a self,
        request: &'b mut S3AccessContext<'c>,
    ) -> Pin<Box<dyn Future<Output = S3Result<()>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        let range = request.headers().get("range").and_then(|range| range.to_str().ok()).unwrap_or("");
        let line = format!("{} {} {range}\n", request.method(), request.uri().path());
        let noted = (&self.0).write_all(line.as_bytes());
        let is_signed = request.credentials().is_some();
        Box::pin(async move {
            noted.map_err(|error| s3_error!(error, InternalError))?;
            is_signed.then_some(()).ok_or_else(|| s3_error!(AccessDenied))
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { listen, root, access_key, secret_key, requests } = Arguments::parse();
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let mut builder = S3ServiceBuilder::new(FileSystem::new(root).map_err(|error| format!("{error:?}"))?);
    builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
    builder.set_access(Noting(OpenOptions::new().create(true).append(true).open(requests)?));
    // Below this address a bucket is a folder; below that name it has a host of its own. Who listens everywhere is called by
    // any name.
    if !address.ip().is_unspecified() {
        builder.set_host(MultiDomain::new(&[address.to_string(), format!("{DOMAIN}:{}", address.port())])?);
    }
    let service = builder.build();
    tokio::spawn(async move {
        let mut input = tokio::io::stdin();
        while input.read_u8().await.is_ok() {}
        std::process::exit(0);
    });
    let mut output = tokio::io::stdout();
    output.write_all(format!("{address}\n").as_bytes()).await?;
    output.flush().await?;
    loop {
        let (connection, _) = listener.accept().await?;
        // An answer is sent in several pieces, which must not wait for each other.
        connection.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(connection), service).await);
        });
    }
}
