//! `larderd audit`: the audit log, for people and programs.

use std::fmt::Write;

use chrono::{DateTime, NaiveDate};
use clap::Args;
use larder_protocol::{api::CacheName, plain::one_line};
use serde_json::{Value, json};

use super::{Failure, open_existing, print};
use crate::{
    audit::{Event, Kind},
    clock::Clock,
    config::{Config, Period},
    metadata::{AuditFilter, AuditRow},
};

const AFTER_HELP: &str = "\
A line says when (UTC), what, in which cache, who, and from where. Refusals of one kind, of one
identity, within one hour share a line that counts them. It works while the service runs, and
without it.

Examples:
  larderd audit --since 2d
  larderd audit --repository your-name/your-flake --kind push-committed
  larderd audit --since 2026-11-01 --until 2026-12-01 --limit 100000 --json";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// From when on: a period back from now such as 12h, 2d or 1w, or a date or time in UTC
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Moment>,
    /// Until when
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Moment>,
    /// What jobs of this repository did
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// What concerns this cache
    #[arg(long)]
    cache: Option<CacheName>,
    /// What is of this kind
    #[arg(long)]
    kind: Option<Kind>,
    /// At most so many lines, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    limit: u32,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    Ago(Period),
    At(i64),
}

impl Moment {
    pub(super) fn seconds(self, now: i64) -> i64 {
        match self {
            Self::Ago(period) => now.saturating_sub(period.seconds()),
            Self::At(seconds) => seconds,
        }
    }
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let now = Clock::System.now();
    let filter = AuditFilter {
        since: arguments.since.map(|moment| moment.seconds(now)),
        until: arguments.until.map(|moment| moment.seconds(now)),
        repository: arguments.repository,
        cache: arguments.cache.map(|cache| cache.to_string()),
        kind: arguments.kind,
        // One more says whether there are more.
        limit: arguments.limit.saturating_add(1),
    };
    let rows = metadata.audit(&filter).await.map_err(Failure::because);
    metadata.close().await;
    let rows = rows?;
    let left_out = rows.len().saturating_sub(usize::try_from(arguments.limit).unwrap_or(usize::MAX));
    let mut text = String::new();
    for row in &rows[left_out..] {
        // Writing to a string cannot fail.
        let _ =
            if arguments.json { writeln!(text, "{}", object(row)) } else { writeln!(text, "{}", line(row)) };
    }
    if arguments.json {
        print::json(&text);
    } else {
        print::out(&text);
    }
    if left_out > 0 {
        print::complain("There is more, older than this: see --limit and --since.");
    }
    Ok(())
}

/// A row for people, on one line whatever others put into it.
fn line(row: &AuditRow) -> String {
    let mut text = format!("{}  {:<14}", time(row.time), row.kind);
    let mut say = |what: &str, value: &Option<String>| {
        if let Some(value) = value {
            text.push_str(what);
            text.push_str(&one_line(value));
        }
    };
    say("  ", &row.cache);
    say("  ", &row.repository);
    say(" #", &row.repository_id);
    say(" ", &row.git_ref);
    say(" ", &row.event);
    say("  run ", &row.run);
    say(".", &row.attempt);
    say("  by ", &row.actor);
    say("  from ", &row.address);
    say("  token ", &row.token);
    let details = match serde_json::from_str::<Event>(&row.details) {
        Ok(event) => event.details(),
        // Of a newer service.
        Err(_) => row.details.clone(),
    };
    text.push_str("  ");
    text.push_str(&one_line(&details));
    if row.times > 1 {
        text.push_str(&format!("  ({} times, the last at {})", row.times, time(row.last_time)));
    }
    text
}

fn object(row: &AuditRow) -> Value {
    let AuditRow { time: first, last_time, times, kind, cache, issuer, repository, repository_id, .. } = row;
    let AuditRow { git_ref, event, run, attempt, actor, token, address, details, .. } = row;
    let details: Value = serde_json::from_str(details).unwrap_or_default();
    json!({
        "time": time(*first), "last_time": time(*last_time), "times": times, "kind": kind, "cache": cache,
        "issuer": issuer, "repository": repository, "repository_id": repository_id, "ref": git_ref, "event": event,
        "run": run, "attempt": attempt, "actor": actor, "token": token, "address": address, "details": details,
    })
}

pub(super) fn time(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0)
        .map_or_else(|| seconds.to_string(), |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

pub(super) fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(period) = text.parse() {
        return Ok(Moment::Ago(period));
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(Moment::At(date.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc().timestamp()));
    }
    DateTime::parse_from_rfc3339(text).map(|time| Moment::At(time.timestamp())).map_err(|_| {
        "write a period such as 12h or 2d, a date such as 2026-11-01, or a time such as 2026-11-01T12:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_periods_dates_and_times() {
        let at = |text| moment(text).map(|moment| moment.seconds(1_000_000));
        assert_eq!(at("2d"), Ok(1_000_000 - 2 * 86_400));
        assert_eq!(at("2026-11-01"), Ok(1_793_491_200));
        assert_eq!(at("2026-11-01T12:00:00Z"), Ok(1_793_491_200 + 12 * 3600));
        assert_eq!(at("2026-11-01T12:00:00+02:00"), Ok(1_793_491_200 + 10 * 3600));
        for wrong in ["", "yesterday", "2d3", "-2d", "0d", "2026-13-01", "99999999999999d"] {
            assert!(at(wrong).unwrap_err().contains("2026-11-01"), "{wrong}");
        }
    }
}
