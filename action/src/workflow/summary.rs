//! The job's summary, in Markdown.

use std::fmt::Write as _;

use larder_protocol::{StorePath, api::CacheName, plain::one_line};

use super::wording::{bytes, count, span};
use crate::agent::report::{Outcome, Report, Row};

/// GitHub refuses a step's summary above 1 MiB.
const MAX_LENGTH: usize = 1_000_000;
/// What is kept for what follows the table.
const REST: usize = 200_000;
/// Longer tables nobody reads.
const MAX_ROWS: usize = 500;
/// Paths that are listed below the table.
const MAX_LISTED: usize = 100;

const KEPT: &str = "**Kept as the cache had it** (this job has it with another content. A build that is not reproducible \
    does that: nothing needs to be done)";
const REPLACED: &str =
    "**Replaced** (the cache had it with another content, from a job whose rank is lower than this one's)";
const REFUSED: &str = "**Refused** (an upstream has signed it with another content, which stands)";

/// The summary of a push.
pub fn of_report(report: &Report, cache: &CacheName) -> String {
    let mut text = format!("### Larder: {}\n\n", escape(&headline(report, cache)));
    if !report.paths.is_empty() {
        text.push_str("| path | size | sent | shared | |\n|---|---:|---:|---:|---|\n");
        let mut written = 0;
        for row in report.paths.iter().take(MAX_ROWS) {
            let line = table_row(row);
            if text.len() + line.len() > MAX_LENGTH - REST {
                break;
            }
            text.push_str(&line);
            written += 1;
        }
        if written < report.paths.len() {
            let _ = writeln!(text, "| … and {} more | | | | |", report.paths.len() - written);
        }
        let sum = |of: fn(&Row) -> u64| bytes(report.paths.iter().map(of).sum());
        let _ = writeln!(
            text,
            "| **{}** | **{}** | **{}** | **{}** | |\n",
            count(report.paths.len(), "path"),
            sum(|row| row.nar_size),
            bytes(report.sent_bytes),
            sum(|row| row.shared_bytes),
        );
    }
    let _ = writeln!(text, "{}\n", escape(&totals(report)));
    if let Some((parent, _)) = cache.isolation() {
        let _ = writeln!(
            text,
            "This is the pull request's own cache: its jobs alone read it, and {} stays as it is.\n",
            escape(parent)
        );
    }
    if !report.left_out.is_empty() {
        let _ = writeln!(text, "**Not pushed**\n");
        for left_out in report.left_out.iter().take(MAX_LISTED) {
            let reason: String = left_out.reason.chars().take(500).collect();
            let _ = writeln!(text, "- {}: {}", code(&left_out.path), escape(&reason));
        }
        and_more(&mut text, report.left_out.len());
    }
    for (heading, paths) in
        [(KEPT, &report.divergences), (REPLACED, &report.replaced), (REFUSED, &report.refused)]
    {
        if !paths.is_empty() {
            let _ = writeln!(text, "{heading}\n");
            for path in paths.iter().take(MAX_LISTED) {
                let _ = writeln!(text, "- {}", code(path));
            }
            and_more(&mut text, paths.len());
        }
    }
    text
}

/// The summary of a push that failed.
pub fn of_failure(reason: &str, cache: &CacheName) -> String {
    let reason: String = reason.chars().take(2_000).collect();
    format!("### Larder: nothing was pushed to {}\n\n{}\n\n", escape(cache.as_str()), escape(&reason))
}

/// What was done, in one line.
pub fn headline(report: &Report, cache: &CacheName) -> String {
    if report.roots == 0 && report.paths.is_empty() {
        return format!("nothing to push to {cache}");
    }
    match report.published {
        0 if report.left_out.is_empty() => format!("{cache} has all of it already"),
        published => {
            let published = usize::try_from(published).unwrap_or(usize::MAX);
            let left_out = match report.left_out.len() {
                0 => String::new(),
                left_out => format!(", {left_out} not pushed"),
            };
            format!("{} pushed to {cache}{left_out}", count(published, "path"))
        }
    }
}

/// Amounts and time, in one line.
pub fn totals(report: &Report) -> String {
    let mut text = if report.paths.is_empty() {
        format!("It took {}.", span(report.elapsed))
    } else {
        format!(
            "{} sent of {} in {}; {} there already, {} at upstreams.",
            bytes(report.sent_bytes),
            bytes(report.nar_bytes),
            span(report.elapsed),
            count(report.present, "path"),
            report.upstream,
        )
    };
    if let Some(relay) = report.relay.filter(|relay| relay.nars + relay.failures > 0) {
        let _ = write!(text, " Read through the relay: {} ({})", relay.nars, bytes(relay.bytes));
        if relay.failures > 0 {
            let _ = write!(text, "; the cache failed {} times, and builds went on", relay.failures);
        }
        text.push('.');
    }
    text
}

/// What became of a path, in a few words.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pushed => "pushed",
        Outcome::Reused => "pushed, contents known",
        Outcome::Present => "there already",
        Outcome::Upstream => "at an upstream",
        Outcome::LeftOut => "not pushed",
    }
}

fn table_row(row: &Row) -> String {
    format!(
        "| {} | {} | {} | {} | {} |\n",
        code(&row.path),
        bytes(row.nar_size),
        bytes(row.sent_bytes),
        bytes(row.shared_bytes),
        outcome(row.outcome)
    )
}

fn and_more(text: &mut String, number: usize) {
    if number > MAX_LISTED {
        let _ = writeln!(text, "- … and {} more", number - MAX_LISTED);
    }
    text.push('\n');
}

fn code(path: &StorePath) -> String {
    format!("<code>{}</code>", escape(&path.to_string()))
}

/// Text that is neither Markdown nor HTML, no link and no mention: whatever might mean something is written as a
/// reference.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            c if c.is_alphanumeric() => escaped.push(c),
            ' ' | '.' | ',' | ';' | ':' | '/' | '-' | '+' | '=' | '?' | '(' | ')' | '…' => escaped.push(c),
            c => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
        }
    }
    // GitHub makes links of these by itself.
    escaped.replace("://", "&#58;//").replace("www.", "www&#46;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::report::LeftOut;

    fn row(name: &str) -> Row {
        Row {
            path: format!("s66mzxpvicwk07gjbjfw9izjfa797vsw-{name}").parse().unwrap(),
            nar_size: 4096,
            sent_bytes: 1024,
            shared_bytes: 2048,
            outcome: Outcome::Pushed,
        }
    }

    fn report(rows: usize) -> Report {
        Report {
            roots: rows,
            paths: vec![row("a_b_c"); rows],
            published: rows as u64,
            present: 3,
            upstream: 200,
            sent_bytes: 1024 * rows as u64,
            nar_bytes: 4096 * rows as u64,
            elapsed: Duration::from_millis(2300),
            ..Report::default()
        }
    }

    #[test]
    fn a_person_sees_what_was_sent() {
        let text = of_report(&report(2), &"main".parse().unwrap());
        assert!(text.starts_with("### Larder: 2 paths pushed to main\n"), "{text}");
        assert!(
            text.contains(
                "| <code>s66mzxpvicwk07gjbjfw9izjfa797vsw-a&#95;b&#95;c</code> | 4.1 kB | 1.0 kB | 2.0 kB | pushed |"
            ),
            "{text}"
        );
        assert!(text.contains("| **2 paths** | **8.2 kB** | **2.0 kB** | **4.1 kB** | |"), "{text}");
        assert!(
            text.contains("2.0 kB sent of 8.2 kB in 2.3 s; 3 paths there already, 200 at upstreams."),
            "{text}"
        );
    }

    #[test]
    fn a_pull_requests_own_cache_is_called_so() {
        let text = of_report(&report(1), &"main~42-pr-7".parse().unwrap());
        assert!(text.starts_with("### Larder: 1 path pushed to main&#126;42-pr-7\n"), "{text}");
        assert_eq!(text.matches("pull request's own cache").count(), 1, "{text}");
        assert!(!of_report(&report(1), &"main".parse().unwrap()).contains("pull request"));
    }

    #[test]
    fn however_much_there_is_it_fits() {
        let mut report = report(200_000);
        report.left_out = vec![LeftOut { path: row("x").path, reason: "\"<&>`".repeat(1_000) }; 10_000];
        report.divergences = vec![row(&"y".repeat(200)).path; 10_000];
        report.replaced.clone_from(&report.divergences);
        report.refused.clone_from(&report.divergences);
        let text = of_report(&report, &"main".parse().unwrap());
        assert!(text.len() < 1 << 20, "{}", text.len());
        assert!(text.contains("… and 199500 more") && text.contains("… and 9900 more"));
    }

    #[test]
    fn what_stands_instead_is_named() {
        let mut report = report(1);
        report.divergences = vec![row("kept").path];
        report.replaced = vec![row("replaced").path];
        report.refused = vec![row("refused").path];
        let text = of_report(&report, &"main".parse().unwrap());
        for (heading, name) in
            [("**Kept", "-kept<"), ("**Replaced", "-replaced<"), ("**Refused", "-refused<")]
        {
            let rest = text.split_once(heading).unwrap().1;
            assert!(rest.split("**").nth(1).unwrap().contains(name), "{text}");
        }
    }

    #[test]
    fn what_others_wrote_is_text() {
        let nasty = "<img src=x> [a](b) `c` | *d* ~e~\r\n# title\n@team ! https://evil.example www.evil.example \
                     \u{202e}x\u{1b}[2J %0A::set-output name=a::b";
        let check = |text: &str| {
            assert!(!text.contains(['<', '[', '`', '|', '*', '~', '@', '!', '\u{202e}', '\u{1b}']), "{text}");
            assert!(!text.contains("://") && !text.contains("www."), "{text}");
            assert!(!text.contains('\n') && text.contains("&#35; title"), "{text}");
        };
        let cache = "main".parse().unwrap();
        check(of_failure(nasty, &cache).split_once("\n\n").unwrap().1.trim_end());
        let left_out = LeftOut { path: row("x").path, reason: nasty.into() };
        let text = of_report(&Report { left_out: vec![left_out], ..report(0) }, &cache);
        let item = text.lines().find_map(|line| line.strip_prefix("- <code>")).unwrap();
        check(item.split_once("</code>: ").unwrap().1);
        assert_eq!(text.lines().filter(|line| line.starts_with("- ")).count(), 1, "{text}");
    }

    #[test]
    fn a_job_that_built_nothing_or_nothing_new_says_so() {
        let cache = "main".parse().unwrap();
        assert_eq!(headline(&Report::default(), &cache), "nothing to push to main");
        let known = Report { published: 0, ..report(1) };
        assert_eq!(headline(&known, &cache), "main has all of it already");
    }
}
