//! `larderd deliveries`: the webhooks that were received.

use std::fmt::Write;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Failure, open_existing, print};
use crate::{
    clock::Clock,
    config::Config,
    forge::{self, DeliveryCount, DeliveryRow, StoredDelivery},
    metadata::Metadata,
    queue::Enqueued,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the newest, and how many are kept of each event
    List {
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: u32,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show all that is kept of one: its headers and its payload
    Show {
        /// Its name, as `larderd deliveries list` and GitHub's page of the webhook show it
        delivery: String,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Act on one once more, as if it had just come
    ///
    /// A service that runs sees it within five seconds; see `larderd jobs list`.
    Replay {
        /// Its name
        delivery: String,
    },
}

pub(super) async fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let done = execute(command, config, &metadata).await;
    metadata.close().await;
    done
}

async fn execute(command: Command, config: &Config, metadata: &Metadata) -> Result<(), Failure> {
    match command {
        Command::List { limit, json } => {
            let deliveries = metadata.deliveries(limit).await.map_err(Failure::because)?;
            let counts = metadata.delivery_counts().await.map_err(Failure::because)?;
            print::out(&if json {
                format!("{:#}\n", json!({ "deliveries": deliveries, "counts": counts }))
            } else {
                list(&deliveries, &counts, Clock::System.now())
            });
        }
        Command::Show { delivery, json } => {
            let found = find(metadata, &delivery).await?;
            let shown: Vec<Value> = found.iter().map(object).collect();
            print::out(&if json { format!("{:#}\n", json!({ "deliveries": shown })) } else { show(&shown) });
        }
        Command::Replay { delivery } => {
            for delivery in find(metadata, &delivery).await? {
                let now = Clock::System.now();
                let jobs = forge::replay(metadata, &config.webhooks, &delivery, now).await;
                let jobs = jobs.map_err(Failure::because)?;
                print::complain(&followed(&jobs));
            }
        }
    }
    Ok(())
}

/// What became of the jobs that follow from a delivery.
fn followed(jobs: &[Enqueued]) -> String {
    let of = |became| jobs.iter().filter(|job| **job == became).count();
    let mut text = format!("jobs that follow from it: {}", of(Enqueued::Stored));
    for (number, why) in [
        (of(Enqueued::Waits), "wait already. See: larderd jobs list"),
        (of(Enqueued::Late), "are of no use, since something newer came after it"),
    ] {
        if number > 0 {
            let _ = write!(text, "; {number} more {why}");
        }
    }
    text
}

async fn find(metadata: &Metadata, guid: &str) -> Result<Vec<StoredDelivery>, Failure> {
    let found = metadata.delivery(guid).await.map_err(Failure::because)?;
    if found.is_empty() {
        return Err(Failure::Other(format!("there is no delivery {guid:?}. See: larderd deliveries list")));
    }
    Ok(found)
}

// Writing to a string cannot fail. What others wrote is escaped.
fn list(deliveries: &[DeliveryRow], counts: &[DeliveryCount], now: i64) -> String {
    let mut text = String::new();
    for delivery in deliveries {
        let DeliveryRow { guid, about, event, action, outcome, received_at, replayed_at, .. } = delivery;
        let action = action.as_ref().map(|action| format!(" {}", action.escape_debug())).unwrap_or_default();
        let _ = write!(
            text,
            "{guid}\t{event}{action}\t{}\t{}\t{} s ago",
            about.escape_debug(),
            outcome.as_str(),
            now.saturating_sub(*received_at)
        );
        text.push_str(if replayed_at.is_some() { "\treplayed\n" } else { "\n" });
    }
    for DeliveryCount { event, outcome, count } in counts {
        let _ = writeln!(text, "{event}: {count} {}", outcome.as_str());
    }
    text
}

/// The payload as JSON, which all of them are.
fn object(delivery: &StoredDelivery) -> Value {
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    json!({
        "delivery": delivery.row,
        "headers": read(delivery.headers.as_bytes()),
        "payload": delivery.payload.as_deref().map(read),
    })
}

fn show(deliveries: &[Value]) -> String {
    deliveries.iter().map(|delivery| format!("{delivery:#}\n")).collect()
}
