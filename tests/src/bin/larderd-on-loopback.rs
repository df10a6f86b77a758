//! The service as a program whose internet is this machine's, so that it can be killed while it fetches from there. It is
//! configured as `larderd` is.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf};

use clap::Parser;
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment, ForgeSecrets},
    flake::Internet,
    log::{self, LogFormat},
    serve,
};
use tokio::net::TcpListener;

/// The service on an internet of hosts on this machine.
#[derive(Parser)]
struct Arguments {
    /// The configuration's file.
    config: PathBuf,
    /// Who signs the hosts' certificates, in PEM.
    root: PathBuf,
    /// Where all of the hosts are.
    address: SocketAddr,
    /// Their names.
    names: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { config, root, address, names } = Arguments::parse();
    let environment = Environment::of_process();
    let _guard = log::init(LogFormat::Text, &environment, log::SERVICE)?;
    let config = Config::load(Some(&config), &environment, ForgeSecrets::Read)?;
    let names: HashMap<_, _> = names.into_iter().map(|name| (name, vec![address])).collect();
    let internet = Internet::model(names, |_| true, std::fs::read(root)?);
    let listener = TcpListener::bind(config.listen).await?;
    let service = Service::open_on(config, Clock::System, internet).await?;
    serve(service, listener, std::future::pending()).await;
    Ok(())
}
