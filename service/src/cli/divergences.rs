//! `larderd divergences`: what was brought with another content than what stood.

use std::fmt::Write;

use clap::Args;
use larder_protocol::{api::CacheName, plain::one_line};
use serde_json::{Value, json};

use super::{
    Failure,
    audit::{Moment, moment, time},
    open_existing, print,
};
use crate::{
    audit::Who,
    clock::Clock,
    config::Config,
    metadata::{DivergenceFilter, NotedDivergence, Outcome},
    trust::GrantedTo,
};

const AFTER_HELP: &str = "\
A divergence says when (UTC), in which cache, which path, and what became of it, then what stood before and what was
brought, each with who brought it:

  kept      what stood was brought by an equal or a higher rank, and stays
  replaced  what was brought is of a higher rank, and stands now
  ordered   an admin had it replaced (larder push --replace)
  refused   an upstream has signed another content

Most are builds that give something else each time, with a date in it for one: harmless. One between a job that you
trust and one that you trust less is worth a look. It works while the service runs, and without it.

Examples:
  larderd divergences --since 7d
  larderd divergences --cache main --json";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// In this cache
    #[arg(long)]
    cache: Option<CacheName>,
    /// From when on: a period back from now such as 12h, 2d or 1w, or a date or time in UTC
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Moment>,
    /// At most so many, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    limit: u32,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let now = Clock::System.now();
    let filter = DivergenceFilter {
        cache: arguments.cache,
        since: arguments.since.map(|moment| moment.seconds(now)),
        // One more says whether there are more.
        limit: arguments.limit.saturating_add(1),
    };
    let found = async {
        Ok::<_, crate::metadata::MetadataError>((
            metadata.divergences(&filter).await?,
            metadata.unasked(filter.cache.as_ref()).await?,
        ))
    };
    let found = found.await.map_err(Failure::because);
    metadata.close().await;
    let (divergences, unasked) = found?;
    let left_out = divergences.len().saturating_sub(usize::try_from(arguments.limit).unwrap_or(usize::MAX));
    let mut text = String::new();
    for divergence in &divergences[left_out..] {
        // Writing to a string cannot fail.
        let _ = match arguments.json {
            true => writeln!(text, "{}", object(divergence)),
            false => writeln!(text, "{}", lines(divergence)),
        };
    }
    print::out(&text);
    if left_out > 0 {
        print::complain("There is more, older than this: see --limit and --since.");
    }
    if unasked > 0 {
        print::complain(&format!(
            "{unasked} paths were pushed while an upstream did not answer whether it has signed them otherwise."
        ));
    }
    Ok(())
}

fn lines(divergence: &NotedDivergence) -> String {
    let NotedDivergence { noted_at, cache, path, outcome, before, before_by, upstream, brought, brought_by } =
        divergence;
    let before_by = match upstream {
        Some(upstream) => format!("signed by {}", one_line(upstream)),
        None => by(before_by),
    };
    let stands = match outcome {
        Outcome::Kept | Outcome::Refused => "stands",
        Outcome::Replaced | Outcome::Ordered => "stood",
    };
    format!(
        "{}  {:<8}  {}  {path}\n    {stands:<8}{before}  {before_by}\n    brought {brought}  {}",
        time(*noted_at),
        outcome.as_str(),
        one_line(cache),
        by(brought_by),
    )
}

/// Who brought something, in a few words.
fn by(identity: &Option<GrantedTo>) -> String {
    let Some(identity) = identity else { return "by somebody of whom nothing is kept".to_owned() };
    let Who { issuer, repository, git_ref, run, attempt, actor, .. } = Who::of(identity);
    let mut text = String::from("by");
    let mut say = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(what);
            text.push_str(&one_line(&value));
        }
    };
    let is_job = repository.is_some();
    say(" ", repository);
    say(" ", git_ref);
    say(" run ", run);
    say(".", attempt);
    if !is_job {
        say(" ", actor);
        say(" of ", issuer);
    }
    text
}

fn object(divergence: &NotedDivergence) -> Value {
    let NotedDivergence { noted_at, cache, path, outcome, before, before_by, upstream, brought, brought_by } =
        divergence;
    json!({
        "time": time(*noted_at), "cache": cache, "path": path.absolute(), "outcome": outcome.as_str(),
        "before": { "nar_hash": before, "by": before_by, "upstream": upstream },
        "brought": { "nar_hash": brought, "by": brought_by },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_named_and_nothing_that_others_wrote_gets_out_of_its_line() {
        let who = |name: &str| Some(GrantedTo::Person { name: name.to_owned(), token: "t".to_owned() });
        let mut divergence = NotedDivergence {
            noted_at: 1_793_491_200,
            cache: "main".to_owned(),
            path: "s66mzxpvicwk07gjbjfw9izjfa797vsw-x".parse().unwrap(),
            outcome: Outcome::Replaced,
            before: larder_protocol::NarHash([1; 32]),
            before_by: who("low\n::error::"),
            upstream: None,
            brought: larder_protocol::NarHash([2; 32]),
            brought_by: who("high"),
        };
        let text = lines(&divergence);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("2026-11-01T00:00:00Z  replaced  main  s66m"), "{text}");
        assert!(text.contains("  by low\\n::error::\n") && text.ends_with("  by high"), "{text}");
        assert_eq!(object(&divergence)["before"]["by"]["name"], "low\n::error::");
        divergence.outcome = Outcome::Refused;
        divergence.upstream = Some("https://cache.nixos.org".to_owned());
        assert!(lines(&divergence).contains("signed by https://cache.nixos.org\n"));
    }
}
