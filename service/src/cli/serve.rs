//! `larderd serve`.

use std::{
    fs::{self, File, TryLockError},
    sync::Arc,
};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{Failure, print, welcome};
use crate::{
    Service,
    clock::Clock,
    config::Config,
    keys,
    metadata::{Lead, Metadata},
    stats::metrics,
};

pub(super) async fn serve(mut config: Config) -> Result<(), Failure> {
    log_panics();
    let stop = told_to_stop()?;
    raise_file_limit();
    let _lock = try_lock(&config)?.ok_or_else(|| {
        Failure::Other(format!(
            "another larderd uses {}. Stop it, or give this one a data_dir of its own",
            config.data_dir.display()
        ))
    })?;
    // First, so that whoever connects while the rest opens waits instead of being refused.
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::Other(format!(
            "cannot listen on {}: {error}. Choose another address by `listen` or LARDER_LISTEN; port 0 takes a free \
             one",
            config.listen
        ))
    })?;
    config.listen = listener.local_addr().map_err(Failure::because)?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            Failure::Other(format!(
                "cannot listen on {address}: {error}. Choose another address by `listen` under [metrics]"
            ))
        })?),
        None => None,
    };
    let service = Service::open(config, Clock::System).await.map_err(Failure::because)?;
    let telling = metrics.map(|listener| tokio::spawn(metrics::serve(service.clone(), listener)));
    print::out(&welcome::text(&service));
    tracing::info!(listen = %service.config.listen, data = %service.config.data_dir.display(), "started");
    let storage = service.storage.clone();
    tokio::spawn(async move {
        if let Err(error) = storage.ping().await {
            tracing::error!(%error, place = storage.place(), "storage cannot be used; /readyz tells when it can");
        }
    });

    crate::serve(Arc::clone(&service), listener, stop).await;
    if let Some(telling) = telling {
        telling.abort();
    }
    tracing::info!("stopped");
    Ok(())
}

/// One process for one data directory: what is absent is known from memory. `None` if there is one.
pub(super) fn try_lock(config: &Config) -> Result<Option<File>, Failure> {
    let directory = &config.data_dir;
    let failed = |error: std::io::Error| {
        Failure::Other(format!(
            "{}: {error}. The service needs a directory that it can write: data_dir, or LARDER_DATA_DIR",
            directory.display()
        ))
    };
    keys::make_private_dir(directory).map_err(failed)?;
    let file = File::create(directory.join("lock")).map_err(failed)?;
    fs::metadata(directory).and_then(|directory| keys::hand_over(&file, &directory)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// What a command holds that does what the service would do.
pub(super) struct InItsStead {
    _lock: File,
    _lead: Lead,
}

/// What is to be held by a command that does what the service would do. `None` where a service does it.
pub(super) async fn in_its_stead(
    config: &Config,
    metadata: &Metadata,
) -> Result<Option<InItsStead>, Failure> {
    let Some(lock) = try_lock(config)? else { return Ok(None) };
    let lead = metadata.try_lead().await.map_err(Failure::because)?;
    Ok(lead.map(|lead| InItsStead { _lock: lock, _lead: lead }))
}

/// SIGTERM and SIGINT. A second one ends the process at once.
pub(super) fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::because)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::because)?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        next().await;
        tokio::spawn(async move {
            next().await;
            std::process::exit(super::FAILED.into());
        });
    })
}

/// Every connection takes a descriptor, and many systems begin with 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it was");
    }
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, panic = panic.payload_as_str(), "a fault in larderd: please report it");
    }));
}
