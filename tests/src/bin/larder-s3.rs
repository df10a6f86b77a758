//! An S3 server over a folder, as a program, so that it can be stopped, killed and started again. It prints the address on
//! which it listens, and ends when its standard input does.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

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
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { listen, root, access_key, secret_key } = Arguments::parse();
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let mut builder = S3ServiceBuilder::new(FileSystem::new(root).map_err(|error| format!("{error:?}"))?);
    builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
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
