//! `larderd check-config`.

use std::fmt::Write;

use super::print;
use crate::{
    config::{Config, DatabaseConfig, StorageConfig},
    identity::SigningAlgorithm,
};

pub(super) fn report(config: &Config) {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, config);
    print::out(&text);
}

fn names(algorithms: &[SigningAlgorithm]) -> String {
    algorithms.iter().map(|algorithm| algorithm.as_str()).collect::<Vec<_>>().join(" or ")
}

fn write(text: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(text, "The configuration is right. It means:")?;
    writeln!(text, "  listen on      {}", config.listen)?;
    writeln!(text, "  public URL     {}", config.public_url.as_ref().map_or("none", |url| url.origin()))?;
    writeln!(text, "  data in        {}", config.data_dir.display())?;
    if let DatabaseConfig::Server(server) = &config.database {
        writeln!(text, "  rows in        {server}")?;
    }
    if let StorageConfig::Bucket(bucket) = &config.storage {
        writeln!(text, "  objects in     {}", bucket.url)?;
    }
    let limits = &config.limits;
    writeln!(text, "  largest body   {}", limits.max_body)?;
    writeln!(text, "  largest NAR    {}", limits.max_nar_size)?;
    writeln!(text, "  largest push   {}", limits.max_push_bytes)?;
    writeln!(text, "  upload window  {}", limits.upload_window)?;
    let isolated = &config.isolated;
    writeln!(
        text,
        "  isolated       {} caches of pull requests, {} for one repository, {} and {} paths each, kept for {}",
        isolated.max, isolated.max_per_repository, isolated.max_size, isolated.max_paths, isolated.keep
    )?;
    if let Some(max_size) = config.retention.max_size {
        writeln!(text, "  all caches     {max_size} at most")?;
    }
    let open = &limits.open_pushes;
    writeln!(
        text,
        "  open pushes    {}, {} in one cache, {} of one job or token",
        open.in_all, open.per_cache, open.per_identity
    )?;
    for proxy in &config.trusted_proxies {
        writeln!(text, "  proxy          {proxy}")?;
    }
    writeln!(text, "  audit log      {}, at most {} rows", config.audit.keep, config.audit.max_rows)?;
    if let Some(address) = config.metrics_listen {
        writeln!(text, "  metrics        http://{address}/metrics")?;
    }
    for issuer in &config.issuers {
        writeln!(text, "  issuer         {} ({}, {})", issuer.url, issuer.kind, names(&issuer.algorithms))?;
    }
    for rule in &config.webhooks {
        writeln!(text, "  webhooks of    {rule}")?;
    }
    for cache in &config.caches {
        writeln!(text, "  cache {} at {}, priority {}", cache.name, config.cache_url(cache), cache.priority)?;
        let readers = if cache.public { "everybody" } else { "whoever has a token that permits read" };
        writeln!(text, "    may read     {readers}")?;
        if let Some(max_size) = cache.max_size {
            writeln!(text, "    holds        {max_size} at most")?;
        }
        for upstream in &cache.upstreams {
            let asked = if upstream.check { "" } else { ", asked only about what carries its signature" };
            writeln!(text, "    upstream     {}{asked}", upstream.upstream.url)?;
        }
        for rule in cache.trust.iter() {
            writeln!(text, "    may push     {rule}")?;
        }
        if cache.trust.is_empty() {
            writeln!(text, "    may push     no job (there is no [[cache.trust]])")?;
        }
    }
    Ok(())
}
