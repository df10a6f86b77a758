//! `larderd sweep`: gives space back now, or says what would go.

use std::{fmt::Write, time::Duration};

use clap::Args;
use larder_protocol::{
    plain::one_line,
    quantity::{count, show_size},
};
use serde_json::json;

use super::{Failure, open_existing, print, serve};
use crate::{
    Service,
    clock::{Clock, to_date},
    config::Config,
    metadata::{Metadata, RankedPath, Worth},
    retention::{self, BudgetReport, CompactionReport, Plan, RoomPlan, SweepReport},
    storage::Storage,
};

/// How often a running service is asked whether it is done.
const ASK_EVERY: Duration = Duration::from_millis(500);

const AFTER_HELP: &str = "\
A sweep takes the paths that nothing has kept for the cache's grace, and then the NARs, chunks and
files that nothing uses. What nothing keeps is noted by one sweep and taken by a later one. Where
there is more than max_size, or the disk is nearly full, what was used longest ago goes, too (of the
disk, pull requests' own caches first); what is held and has no room is listed. At its end it
compacts: files of which less than half is in use are rewritten, and many small ones become one.
Where the service runs, it does the sweep and this waits for it.

Examples:
  larderd sweep --dry-run
  larderd sweep --dry-run --json | jq .caches
  larderd why-alive /nix/store/…-hello-2.12";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Say what would go and why, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> Result<(), Failure> {
    if arguments.dry_run {
        return dry_run(&arguments, &config).await;
    }
    let metadata = open_existing(&config).await?;
    let report = match serve::in_its_stead(&config, &metadata).await? {
        Some(_alone) => {
            metadata.close().await;
            let service = Service::open(config, Clock::System).await.map_err(Failure::because)?;
            let report = retention::sweep(&service).await.map_err(Failure::because);
            service.metadata.close().await;
            report?
        }
        None => ask(&metadata, &config).await?,
    };
    if arguments.json {
        print::json(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
        return Ok(());
    }
    let mut text = String::new();
    for cache in &report.caches {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {} went, {} that nothing keeps were noted, {} ({}) are kept",
            cache.cache,
            count(cache.deleted, "path"),
            cache.condemned,
            cache.kept,
            show_size(cache.kept_bytes)
        );
    }
    let _ = writeln!(
        text,
        "{} ({}) went, and {} ({})",
        count(report.chunks, "chunk"),
        show_size(report.chunk_bytes),
        count(report.objects, "file"),
        show_size(report.object_bytes)
    );
    let CompactionReport { replaced, replaced_bytes, written, written_bytes } = report.compaction;
    if replaced + written > 0 {
        let _ = writeln!(
            text,
            "{} ({}) were rewritten as {written} ({}), and go in an hour",
            count(replaced, "file"),
            show_size(replaced_bytes),
            show_size(written_bytes)
        );
    }
    for budget in &report.budgets {
        tell_budget(&mut text, budget, budget.is_met());
    }
    print::out(&text);
    Ok(())
}

/// How full a budget is, and what holds what it has no room for.
fn tell_budget(text: &mut String, budget: &BudgetReport, is_enough: bool) {
    let whose = budget.cache.as_deref().unwrap_or("all caches");
    let limit = if budget.disk { "as the disk is nearly full" } else { "(max_size)" };
    // Writing to a string cannot fail.
    let _ =
        writeln!(text, "{whose}: {} of at most {} {limit}", show_size(budget.used), show_size(budget.limit));
    for cache in &budget.isolated {
        let _ = writeln!(text, "{cache}: this pull request's cache goes for want of room on the disk");
    }
    if is_enough {
        return;
    }
    let _ = writeln!(
        text,
        "{whose}: there is too little room: {} are held by pins, the newest runs of main lines, pushes under way \
         and caches that no sweep touches. Remove pins (`larder pin remove`), let go of branches (`larderd roots drop`), \
         or raise max_size. What holds most:",
        show_size(budget.held)
    );
    for holder in &budget.holders {
        let _ = writeln!(
            text,
            "  {}  {}  {} {}",
            show_size(holder.bytes),
            holder.cache,
            holder.kind,
            one_line(&holder.which)
        );
    }
}

/// Why a path is among the first that go.
fn why_now(path: &RankedPath) -> String {
    match (Worth::dead_since(path.worth), Worth::used_at(path.worth)) {
        (Some(since), _) => format!("nothing keeps it since {}", to_date(since)),
        (None, Some(used)) => format!("it was pushed or read last at {}", to_date(used)),
        (None, None) => "it is held".to_owned(),
    }
}

fn room_object(plan: &RoomPlan) -> serde_json::Value {
    let RoomPlan { budget, paths, is_enough } = plan;
    let paths: Vec<_> = paths
        .iter()
        .map(|path| {
            json!({
                "cache": path.cache, "path": path.path.absolute(), "nar_size": path.nar_size,
                "dead_since": Worth::dead_since(path.worth).map(to_date),
                "used_at": Worth::used_at(path.worth).map(to_date),
            })
        })
        .collect();
    json!({
        "cache": budget.cache, "disk": budget.disk, "limit": budget.limit, "used": budget.used, "held": budget.held,
        "is_enough": is_enough, "holders": budget.holders, "isolated": budget.isolated, "paths": paths,
    })
}

/// Has the running service sweep, and waits for it.
async fn ask(metadata: &Metadata, config: &Config) -> Result<SweepReport, Failure> {
    let asked = metadata.ask_for_sweep(Clock::System.now()).await.map_err(Failure::because)?;
    loop {
        if let Some(report) = metadata.asked_sweep(asked).await.map_err(Failure::because)?.report {
            return serde_json::from_str(&report).map_err(Failure::because);
        }
        if serve::in_its_stead(config, metadata).await?.is_some() {
            return Err(Failure::Other(
                "the service stopped before the sweep was done. Run `larderd sweep` again".to_owned(),
            ));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn dry_run(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let metadata = open_existing(config).await?;
    let now = Clock::System.now();
    let mut plans = Vec::new();
    for cache in &config.caches {
        let plan =
            retention::plan(&metadata, &cache.name, &cache.retention, now).await.map_err(Failure::because)?;
        plans.push((cache.name.to_string(), plan));
    }
    let compaction = retention::plan_compaction(&metadata).await.map_err(Failure::because)?;
    let room = Storage::open(config).and_then(|storage| storage.room());
    let rooms =
        retention::plan_room(&metadata, config, room.ok().flatten(), now).await.map_err(Failure::because)?;
    metadata.close().await;
    if arguments.json {
        let caches: Vec<_> = plans.iter().map(|(name, plan)| object(name, plan)).collect();
        let budgets: Vec<_> = rooms.iter().map(room_object).collect();
        print::json(&format!(
            "{}\n",
            json!({ "caches": caches, "budgets": budgets, "compaction": compaction })
        ));
        return Ok(());
    }
    let mut text = String::new();
    for (name, plan) in &plans {
        for path in &plan.paths {
            let _ = writeln!(
                text,
                "{name}: {} would go: nothing keeps it since {} ({})",
                one_line(&path.path.absolute()),
                to_date(path.dead_since),
                show_size(path.nar_size)
            );
        }
        let _ = writeln!(
            text,
            "{name}: {} ({}) would go and free {}, {} ({}) would stay",
            count(plan.dying.paths, "path"),
            show_size(plan.dying.nar_bytes),
            show_size(plan.frame_bytes),
            plan.kept.paths,
            show_size(plan.kept.nar_bytes)
        );
    }
    for RoomPlan { budget, paths, is_enough } in &rooms {
        for path in paths {
            let _ = writeln!(
                text,
                "{}: {} would go for want of room: {} ({})",
                path.cache,
                one_line(&path.path.absolute()),
                why_now(path),
                show_size(path.nar_size)
            );
        }
        tell_budget(&mut text, budget, *is_enough);
    }
    let CompactionReport { replaced, replaced_bytes, written, written_bytes } = compaction;
    if replaced > 0 {
        let _ = writeln!(
            text,
            "{} ({}) would be rewritten as about {written} ({})",
            count(replaced, "file"),
            show_size(replaced_bytes),
            show_size(written_bytes)
        );
    }
    print::out(&text);
    Ok(())
}

fn object(name: &str, plan: &Plan) -> serde_json::Value {
    let paths: Vec<_> = plan
        .paths
        .iter()
        .map(|path| {
            json!({ "path": path.path.absolute(), "nar_size": path.nar_size, "dead_since": to_date(path.dead_since) })
        })
        .collect();
    json!({
        "cache": name, "paths": paths, "nar_bytes": plan.dying.nar_bytes, "freed_bytes": plan.frame_bytes,
        "kept": plan.kept.paths, "kept_nar_bytes": plan.kept.nar_bytes,
    })
}
