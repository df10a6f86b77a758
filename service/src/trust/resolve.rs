//! Asking the forges what the names in the rules stand for, so that nobody can come first under a name that is theirs
//! only since yesterday.

use std::collections::BTreeMap;

use larder_protocol::api::CacheName;

use super::{NumberSource, TrustedName};
use crate::{
    Service,
    config::IssuerConfig,
    forge::{Forge, ForgeError},
    metadata::{Binding, MetadataError, NamesOf},
};

/// The names could not be asked about. They are bound when their first tokens come.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Binds the names in the rules that nobody has bound yet and that a forge's API knows. What cannot be asked about is
/// left to the first token: nothing waits for this, and nothing fails by it.
pub async fn resolve_names(service: &Service) {
    for issuer in &service.config.issuers {
        if let Err(error) = resolve_names_of(service, issuer).await {
            tracing::info!(
                issuer = %issuer.url, %error,
                "the forge's API does not say what the names in the rules stand for: their first tokens will"
            );
        }
    }
}

async fn resolve_names_of(service: &Service, issuer: &IssuerConfig) -> Result<(), ResolveError> {
    let Some(api) = &issuer.api_url else { return Ok(()) };
    let known = service.metadata.all_bound_names().await?;
    let mut unknown: BTreeMap<TrustedName, Vec<&CacheName>> = BTreeMap::new();
    for cache in service.caches.iter() {
        for name in
            cache.config.trust.iter().filter(|rule| rule.issuer == issuer.url).flat_map(|rule| rule.names())
        {
            let bound = known.iter().any(|row| {
                row.cache == *cache.name()
                    && row.issuer == issuer.url.as_str()
                    && row.bound.name == name
                    && row.bound.unbound_at.is_none()
            });
            let caches = unknown.entry(name).or_default();
            if !bound && !caches.contains(&cache.name()) {
                caches.push(cache.name());
            }
        }
    }
    unknown.retain(|_, caches| !caches.is_empty());
    if unknown.is_empty() {
        return Ok(());
    }
    let forge = Forge::new(api)?;
    for (name, caches) in unknown {
        let Some(numbers) = forge.numbers_of(&name).await? else {
            tracing::info!(issuer = %issuer.url, %name, "the forge shows no such name to everybody: its first token binds it");
            continue;
        };
        for cache in caches {
            let of = NamesOf { cache, issuer: issuer.url.as_str() };
            let now = service.clock.now();
            let binding = service.metadata.bind_name(of, &name, numbers, NumberSource::Api, now).await?;
            // A token came first, while GitHub was asked.
            if binding == Binding::Differs {
                service.metadata.suspend_name(of, &name, numbers, now).await?;
                tracing::warn!(%cache, issuer = of.issuer, %name, %numbers, "a token bound a name to something else than the forge says");
            }
        }
    }
    Ok(())
}
