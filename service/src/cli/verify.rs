//! `larderd verify`: whether what is stored is still what was verified when it came.

use std::{fmt::Write, str::FromStr, sync::Arc, time::Duration};

use clap::Args;
use larder_protocol::{
    StorePath,
    plain::one_line,
    quantity::{count, show_size},
    store_path::STORE_DIR,
};

use super::{Failure, open_existing, print, progress::Progress, serve};
use crate::{
    Service,
    clock::Clock,
    config::Config,
    metadata::Metadata,
    verification::{self, Scope, VerifyReport},
};

/// How often is looked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How many findings and waiting paths are printed.
const PRINTED: usize = 100;

const AFTER_HELP: &str = "\
It reads every frame, chunk, NAR, recipe and record, compares them with the rows of the database,
and looks at each path's references and signatures. What can be mended is mended at once. A path
whose bytes are damaged is served to nobody from then on, and the next push of it brings it again;
`larderd verify` fails until it has. Where the service runs, it does the work and this waits.

Examples:
  larderd verify
  larderd verify --sample 5%
  larderd verify /nix/store/…-hello-2.12
  larderd verify --json | jq '.findings[]'";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// One path, in whichever cache it is; everything if it is left out
    #[arg(conflicts_with_all = ["all", "sample"])]
    path: Option<String>,
    /// Everything
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// So many percent of the objects and NARs, chosen at random, and all rows
    #[arg(long, value_name = "PERCENT")]
    sample: Option<Percent>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A share, with or without its sign.
#[derive(Debug, Clone, Copy)]
struct Percent(f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse();
        let percent = number.ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
        percent.map(Self).ok_or_else(|| "write a share above 0 and up to 100, for example 5%".to_owned())
    }
}

impl Arguments {
    fn scope(&self) -> Result<Scope, Failure> {
        let Some(path) = &self.path else {
            return Ok(self.sample.map_or(Scope::All, |Percent(percent)| Scope::Sample(percent)));
        };
        let name = path.strip_prefix(STORE_DIR).unwrap_or(path).trim_start_matches('/');
        // What lies below a path is of that path.
        let name = name.split('/').next().unwrap_or_default();
        let path: StorePath = name.parse().map_err(Failure::because)?;
        Ok(Scope::Path(path.hash()))
    }
}

pub(super) async fn run(arguments: Arguments, config: Config) -> Result<(), Failure> {
    let scope = arguments.scope()?;
    let metadata = open_existing(&config).await?;
    let report = match serve::in_its_stead(&config, &metadata).await? {
        Some(_alone) => {
            metadata.close().await;
            let service = Service::open(config, Clock::System).await.map_err(Failure::because)?;
            let report = here(&service, scope).await;
            service.audit.flush().await;
            service.metadata.close().await;
            report?
        }
        None => {
            let asked = verification::ask(&metadata, &scope, Clock::System.now()).await;
            wait(&metadata, asked.map_err(Failure::because)?, &config).await?
        }
    };
    if arguments.json {
        print::json(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        print::out(&in_words(&report));
    }
    verdict(&report)
}

/// Verifies in this process.
async fn here(service: &Arc<Service>, scope: Scope) -> Result<VerifyReport, Failure> {
    let id =
        verification::ask(&service.metadata, &scope, service.clock.now()).await.map_err(Failure::because)?;
    let mut progress = Progress::new("verified");
    let work = verification::verify_asked(service, id, scope);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            report = &mut work => {
                progress.end();
                return report.map_err(Failure::because);
            }
            () = tokio::time::sleep(ASK_EVERY) => {
                if let Ok(asked) = service.metadata.asked_verification(id).await {
                    progress.show(asked.done, asked.total);
                }
            }
        }
    }
}

/// Waits until the running service has done it.
async fn wait(metadata: &Metadata, id: i64, config: &Config) -> Result<VerifyReport, Failure> {
    let mut progress = Progress::new("verified");
    loop {
        let asked = metadata.asked_verification(id).await.map_err(Failure::because)?;
        if let Some(report) = asked.report {
            progress.end();
            return serde_json::from_str(&report).map_err(Failure::because);
        }
        progress.show(asked.done, asked.total);
        if serve::in_its_stead(config, metadata).await?.is_some() {
            progress.end();
            // The next service that starts is not to do it for nobody.
            let report =
                VerifyReport { failed: Some("the service stopped".to_owned()), ..VerifyReport::default() };
            let text = serde_json::to_string(&report).unwrap_or_default();
            metadata.end_verification(id, &text, Clock::System.now()).await.map_err(Failure::because)?;
            return Err(Failure::Other(
                "the service stopped before it was done. Run `larderd verify` again".to_owned(),
            ));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn in_words(report: &VerifyReport) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().take(PRINTED) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<9}  {:<9}  {}: {}",
            finding.outcome.as_str(),
            one_line(&finding.what),
            one_line(&finding.name),
            one_line(&finding.problem)
        );
    }
    let found = report.mended + report.withdrawn + report.lost + report.left;
    if found > PRINTED as u64 {
        let _ = writeln!(text, "… and {} more; --json lists a thousand", found - PRINTED as u64);
    }
    for path in report.waiting.iter().take(PRINTED) {
        let _ = writeln!(
            text,
            "waiting    path       {}: it was withdrawn, and no push has brought it again",
            one_line(path)
        );
    }
    let _ = writeln!(
        text,
        "{} in {}, {} ({}), {}, {} and {} were verified",
        count(report.frames, "frame"),
        count(report.objects, "object"),
        count(report.nars, "NAR"),
        show_size(report.nar_bytes),
        count(report.recipes, "recipe"),
        count(report.records, "record"),
        count(report.paths, "path")
    );
    if report.unanswered > 0 {
        let _ =
            writeln!(text, "{} references may be at an upstream, which did not answer", report.unanswered);
    }
    if report.unreferenced > 0 {
        let _ = writeln!(
            text,
            "{} ({}) named by no row: they were left",
            count(report.unreferenced, "file"),
            show_size(report.unreferenced_bytes)
        );
    }
    text
}

/// Fails where something is not right.
fn verdict(report: &VerifyReport) -> Result<(), Failure> {
    if let Some(reason) = &report.failed {
        return Err(Failure::Other(format!("it could not be ended: {}", one_line(reason))));
    }
    if report.is_right() {
        return Ok(());
    }
    let mut text = format!("{} are withdrawn, {} lost", report.withdrawn, report.lost);
    if !report.waiting.is_empty() {
        let _ = write!(text, "; {} paths wait for a push that brings them again", report.waiting.len());
    }
    if report.fetching > 0 {
        let _ = write!(
            text,
            ". An upstream has {} of them: the service, where it runs, fetches them now",
            report.fetching
        );
    }
    Err(Failure::Other(text))
}
