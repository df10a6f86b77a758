//! `larderd stats`: where the store's size goes, for people and programs.

use std::fmt::Write;

use clap::Args;
use larder_protocol::{api::CacheName, plain::one_line};
use serde_json::json;

use super::{Failure, open_existing, print};
use crate::{
    clock::{Clock, to_date},
    config::{ByteSize, CacheConfig, Config, Period},
    metadata::{Metadata, Sample},
    stats::{
        chart::chart,
        holders::{Held, holders},
        trend::{Trend, trend},
    },
};

/// How many of those that hold most are listed.
const LARGEST: usize = 10;

const AFTER_HELP: &str = "\
The service takes a sample every five minutes, and keeps them for a day, hourly ones for a month and
daily ones for ten years. Bytes are those of the files in storage; with --cache, of the cache's frames
where it shares none with other caches, and else of its NARs, compressed.

What a repository, a ref or a pin holds is looked up while you wait: all that its closures need, and
what nobody else's need. In a large store that takes seconds.

Examples:
  larderd stats
  larderd stats --since 1y --cache main
  larderd stats --since 7d --csv > week.csv
  larderd stats --json | jq .trend";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// How far to look back: 24h, 30d, 1y
    #[arg(long, value_name = "PERIOD", default_value = "30d")]
    since: Period,
    /// This cache alone, instead of the whole store
    #[arg(long)]
    cache: Option<CacheName>,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print all samples of that time as CSV, those of repositories too
    #[arg(long)]
    csv: bool,
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let caches: Vec<&CacheConfig> = config
        .caches
        .iter()
        .filter(|cache| arguments.cache.as_ref().is_none_or(|name| *name == cache.name))
        .collect();
    if let (Some(name), true) = (&arguments.cache, caches.is_empty()) {
        return Err(Failure::Other(format!("there is no cache {name} in the configuration")));
    }
    let metadata = open_existing(config).await?;
    let budget = match &arguments.cache {
        Some(_) => caches.first().and_then(|cache| cache.max_size),
        None => config.retention.max_size,
    };
    let done = execute(&arguments, &caches, budget.map(ByteSize::get), &metadata).await;
    metadata.close().await;
    done
}

async fn execute(
    arguments: &Arguments,
    caches: &[&CacheConfig],
    budget: Option<u64>,
    metadata: &Metadata,
) -> Result<(), Failure> {
    let now = Clock::System.now();
    let since = now - arguments.since.seconds();
    let cache = arguments.cache.as_ref().map(CacheName::as_str);
    if arguments.csv {
        return csv(metadata, cache, since).await;
    }
    let samples = metadata.samples(cache.unwrap_or_default(), "", since).await.map_err(Failure::because)?;
    let sizes: Vec<(i64, u64)> = samples.iter().map(|sample| (sample.taken_at, size(sample))).collect();
    let trend = trend(&sizes, budget);
    let held = async {
        let mut held = holders(metadata, caches, now).await.map_err(Failure::because)?;
        held.truncate(LARGEST);
        Ok::<_, Failure>(held)
    };
    if arguments.json {
        let repositories = repositories(metadata, cache).await?;
        let told = json!({
            "samples": samples, "trend": trend, "budget": budget, "repositories": repositories,
            "largest": held.await?,
        });
        print::json(&format!("{told}\n"));
        return Ok(());
    }
    match samples.last() {
        // First, since who holds what takes longer.
        Some(last) => print::out(&format!("{}{}", chart(&sizes), in_words(last, &samples, &trend, budget))),
        None => print::out(
            "There is no sample yet: the service takes one when it starts, and every five minutes.\n",
        ),
    }
    print::out(&largest(&held.await?));
    Ok(())
}

/// What is drawn.
fn size(sample: &Sample) -> u64 {
    sample.held.stored_bytes.unwrap_or(sample.held.packed_bytes)
}

fn short(bytes: u64) -> String {
    ByteSize::bytes(bytes).in_short()
}

// Writing to a string cannot fail.
fn in_words(last: &Sample, samples: &[Sample], trend: &Trend, budget: Option<u64>) -> String {
    let mut text = String::new();
    let held = &last.held;
    let known =
        |count: Option<u64>, what: &str| count.map_or_else(String::new, |count| format!(", {count} {what}"));
    let _ = writeln!(
        text,
        "\n{} paths in {} closures, {} NARs{}{}",
        held.paths,
        held.closures,
        held.nars,
        known(held.chunks, "chunks"),
        known(held.objects, "files")
    );
    let _ = write!(text, "{} of NARs, compressed {}", short(held.raw_bytes), short(held.packed_bytes));
    if let (Some(stored), Some(shared)) = (held.stored_bytes, held.shared_bytes) {
        let _ = write!(text, "; stored {}, since {} are shared", short(stored), short(shared));
    }
    let _ = writeln!(
        text,
        "\nkept by {} runs, {} pins, {} pushes under way, {} recent pushes and {} paths read lately",
        held.runs, held.pins, held.leases, held.recent_pushes, held.recent_reads
    );
    let mut traffic = crate::metadata::Traffic::default();
    samples.iter().for_each(|sample| traffic += sample.traffic);
    let asked = traffic.hits + traffic.misses;
    let rate =
        (traffic.hits * 100).checked_div(asked).map_or_else(String::new, |rate| format!(" ({rate} % there)"));
    let _ = writeln!(
        text,
        "since {}: {asked} paths asked for{rate}, {} NARs read, {} served",
        to_date(samples.first().map_or(last.taken_at, |first| first.taken_at)),
        traffic.reads,
        short(traffic.bytes_served)
    );
    let _ = write!(text, "size: {}", trend.state);
    if let Some(per_week) = trend.per_week {
        let sign = if per_week < 0.0 { "-" } else { "+" };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is shown in short")]
        let _ = write!(text, ", {sign}{} a week", short(per_week.abs() as u64));
    }
    let _ = match (budget, trend.days_until_full) {
        (Some(budget), Some(days)) => {
            write!(text, "; the budget of {} is full in {days:.0} days", short(budget))
        }
        (Some(budget), None) => write!(text, "; the budget is {}", short(budget)),
        (None, _) => write!(text, "; there is no budget (max_size)"),
    };
    text.push('\n');
    text
}

fn largest(held: &[Held]) -> String {
    if held.is_empty() {
        return "\nNo run and no pin holds anything.\n".to_owned();
    }
    let mut text = format!("\n{:>10} {:>10}  the largest holders, by what only they hold\n", "only", "all");
    for Held { holder, all_bytes, only_bytes } in held {
        // What others wrote is escaped.
        let name = one_line(&holder.name);
        let (only, all) = (short(*only_bytes), short(*all_bytes));
        let _ = writeln!(text, "{only:>10} {all:>10}  {} {} {name}", holder.cache, holder.kind);
    }
    text
}

/// The newest samples of what repositories brought.
async fn repositories(metadata: &Metadata, cache: Option<&str>) -> Result<Vec<Sample>, Failure> {
    let mut newest = metadata.newest_samples().await.map_err(Failure::because)?;
    newest.retain(|sample| !sample.repository.is_empty() && cache.is_none_or(|cache| cache == sample.cache));
    Ok(newest)
}

async fn csv(metadata: &Metadata, cache: Option<&str>, since: i64) -> Result<(), Failure> {
    let columns: Vec<&str> = Sample::NAMES.split(',').map(str::trim).collect();
    print::out(&format!("{}\n", columns.join(",")));
    let mut last = None;
    loop {
        let samples = metadata.all_samples(cache, since, last.as_ref()).await.map_err(Failure::because)?;
        let mut text = String::new();
        for sample in &samples {
            let Sample { taken_at, span, cache, repository, .. } = sample;
            let _ = write!(text, "{},{span},{cache},{}", to_date(*taken_at), quoted(repository));
            for number in sample.numbers() {
                let _ = write!(text, ",{}", number.map_or_else(String::new, |number| number.to_string()));
            }
            text.push('\n');
        }
        print::out(&text);
        match samples.last() {
            Some(sample) => last = Some(sample.clone()),
            None => return Ok(()),
        }
    }
}

/// A name that somebody else chose: neither a line's end nor a spreadsheet's formula may come of it.
fn quoted(name: &str) -> String {
    let name = one_line(name).replace('"', "\"\"");
    let formula = name.starts_with(['=', '+', '@']) || name.starts_with('-') && name.len() > 1;
    let mark = if formula { "'" } else { "" };
    format!("\"{mark}{name}\"")
}
