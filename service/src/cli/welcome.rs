//! What `larderd` prints when it starts: what to do next.

use std::fmt::Write;

use crate::{
    Service,
    caches::Cache,
    config::{DatabaseConfig, IssuerUrl, StorageConfig},
};

/// How a workflow names the action.
const ACTION: &str = "larder-nix/larder@v1";

/// The first line is for programs too: `larderd listens on http://ADDRESS:PORT`.
pub(super) fn text(service: &Service) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, service);
    text
}

fn write(text: &mut String, service: &Service) -> std::fmt::Result {
    let config = &service.config;
    writeln!(text, "larderd listens on http://{}", config.listen)?;
    writeln!(text, "Its data are in {}", config.data_dir.display())?;
    if let DatabaseConfig::Server(server) = &config.database {
        writeln!(text, "Its rows are in {server}")?;
    }
    if let StorageConfig::Bucket(bucket) = &config.storage {
        writeln!(text, "Its objects are in {}", bucket.url)?;
    }
    if let Some(url) = &config.public_url {
        writeln!(text, "Others reach it by {url}")?;
    }

    writeln!(text, "\nTo read from it, add to /etc/nix/nix.conf:\n")?;
    let all = |each: fn(&Cache) -> String| {
        service.caches.iter().map(|cache| each(cache)).collect::<Vec<_>>().join(" ")
    };
    let keys =
        |cache: &Cache| cache.public_keys().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    writeln!(text, "    extra-substituters = {}", all(|cache| cache.url.clone()))?;
    writeln!(text, "    extra-trusted-public-keys = {}", all(keys))?;
    writeln!(text, "    fallback = true")?;
    writeln!(text, "    connect-timeout = 5")?;
    writeln!(text, "    narinfo-cache-negative-ttl = 0")?;

    let Some(cache) = service.caches.iter().next() else { return Ok(()) };
    writeln!(
        text,
        "\nTo push to it, give a workflow's job this permission and this step, before it builds:\n"
    )?;
    writeln!(text, "    permissions:")?;
    writeln!(text, "      contents: read")?;
    writeln!(text, "      id-token: write")?;
    writeln!(text, "    steps:")?;
    writeln!(text, "      - uses: {ACTION}")?;
    writeln!(text, "        with:")?;
    writeln!(text, "          service: {}", config.base_url())?;
    writeln!(text, "          cache: {}", cache.name())?;

    let trusting: Vec<&Cache> =
        service.caches.iter().map(|cache| &**cache).filter(|cache| !cache.config.trust.is_empty()).collect();
    if trusting.is_empty() {
        writeln!(text, "\nNobody may push yet. To allow a repository, write /etc/larder/larder.toml:\n")?;
        let url = config.public_url.as_ref().map_or("https://cache.example.org", |url| url.origin());
        writeln!(text, "    public_url = \"{url}\"")?;
        writeln!(text, "\n    [[cache]]\n    name = \"{}\"", cache.name())?;
        writeln!(text, "\n    [[cache.trust]]")?;
        writeln!(text, "    repository = \"your-name/your-flake\"")?;
        writeln!(text, "    ref = \"refs/heads/main\"")?;
        writeln!(
            text,
            "\nand start larderd again. For a person: larderd token create NAME --cache {}",
            cache.name()
        )?;
    } else {
        writeln!(text, "\nWho may push:\n")?;
        for cache in trusting {
            for rule in cache.config.trust.iter() {
                writeln!(text, "    to {}: {rule}", cache.name())?;
            }
        }
    }
    let others: Vec<&IssuerUrl> =
        config.issuers.iter().map(|issuer| &issuer.url).filter(|url| **url != IssuerUrl::default()).collect();
    for issuer in others {
        writeln!(text, "    (jobs prove who they are by {issuer})")?;
    }
    writeln!(text)
}
