//! `larder why`.

use std::path::{Path, PathBuf};

use clap::Args;
use larder_protocol::{
    StorePath,
    api::CacheName,
    plain::one_line,
    provenance::{Provenance, PushedBy},
};
use url::Url;

use super::{Exit, bars, push::print_json, quantity::show_size};
use crate::{
    credentials::{Credentials, CredentialsError},
    output,
    service::{CacheReader, ServiceError},
    store::{self, StoreError},
};

/// Say who brought a path into a cache
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  larder why ./result --service https://cache.example.org
  larder why /nix/store/s66mzxpvicwk07gjbjfw9izjfa797vsw-hello-2.12.1 --json > hello.json
  larder verify hello.json /nix/store/s66mzxpvicwk07gjbjfw9izjfa797vsw-hello-2.12.1

The cache knows who *pushed* a path, by the verified claims of the job's ID token. Who
*built* it is what that job says of itself, and is marked so.

With --json it prints a statement (in-toto, in a DSSE envelope) that the cache has signed;
`larder verify` checks it without asking anybody.

A cache that is not public, and what a public one does not tell strangers, takes a token:
LARDER_TOKEN or --token-file.

Exit codes: 0 done, 1 failed or the cache has no such path, 2 wrong usage, 3 denied.")]
pub struct WhyArgs {
    /// A store path, or a link to one such as ./result
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The service's URL
    #[arg(long, env = "LARDER_SERVICE", value_name = "URL")]
    service: Url,
    /// The cache
    #[arg(long, env = "LARDER_CACHE", value_name = "NAME", default_value = "main")]
    cache: CacheName,
    /// A file with a token, instead of LARDER_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print a statement that the cache has signed
    #[arg(long)]
    json: bool,
}

impl WhyArgs {
    pub(super) async fn run(self) -> Exit {
        let path = match store_path(&self.path) {
            Ok(path) => path,
            Err(error) => return fail(&error, Exit::Usage),
        };
        let credentials = match Credentials::of_person(self.token_file.as_deref()) {
            Ok(credentials) => credentials,
            Err(error) => return fail(&error, Exit::Usage),
        };
        match self.ask(&path, credentials.as_ref()).await {
            Ok(exit) => exit,
            Err(error) if error.is_denial() => fail(&error, Exit::Denied),
            Err(error) => fail(&error, Exit::Failed),
        }
    }

    async fn ask(&self, path: &StorePath, credentials: Option<&Credentials>) -> Result<Exit, ServiceError> {
        let progress = bars::for_stderr();
        let cache = CacheReader::new(&self.service, &self.cache, credentials, &*progress)?;
        if self.json {
            return Ok(print_json(&cache.statement(path.hash()).await?));
        }
        let provenance = cache.provenance(path.hash()).await?;
        if provenance.path != *path {
            return Ok(fail(
                &format!("the cache has {} under this hash", provenance.path.absolute()),
                Exit::Failed,
            ));
        }
        tell(&provenance).iter().for_each(|line| output::line(line));
        Ok(Exit::Done)
    }
}

/// The store path that a command line names: as such, or a link to it.
pub(super) fn store_path(given: &Path) -> Result<StorePath, StoreError> {
    match given.to_str().and_then(|text| text.parse().ok()) {
        Some(path) => Ok(path),
        None => store::resolve(Path::new("/"), given),
    }
}

/// Who brought a path, for people. What others wrote stays on its line.
pub(super) fn tell(provenance: &Provenance) -> Vec<String> {
    let Provenance { cache, path, nar_hash, nar_size, deriver, pushed_at, pushed_by, reported_built } =
        provenance;
    let mut lines = vec![path.absolute()];
    let mut add = |name: &str, value: &str| lines.push(format!("  {name:<10}{}", one_line(value)));
    add("pushed", &format!("to {cache}, {pushed_at}"));
    match pushed_by {
        PushedBy::Job(job) => {
            add("by", &format!("a job of {}", job.repository));
            add("verified", &by_issuer(job.issuer.as_deref()));
            add("commit", &job.commit);
            add("ref", &format!("{} ({})", job.git_ref, job.event));
            if let Some(workflow) = &job.workflow {
                add("workflow", workflow);
            }
            match &job.run_url {
                Some(url) => add("run", url),
                None => add("run", &format!("{}, attempt {}", job.run, job.attempt)),
            }
            if let Some(actor) = &job.actor {
                add("actor", actor);
            }
        }
        PushedBy::Subject { issuer, subject } => {
            add("by", subject);
            add("verified", &format!("by {issuer}"));
        }
        PushedBy::Withheld { issuer } => {
            add(
                "by",
                "a job of a repository that is not public: more is told to those who may know, by LARDER_TOKEN",
            );
            add("verified", &by_issuer(issuer.as_deref()));
        }
        PushedBy::Person { name } => add("by", &format!("a person, with the token {name}")),
        PushedBy::Prefetch { from } => {
            let from = from.as_deref().unwrap_or("an upstream");
            add("by", &format!("the service itself, prefetched from {from}"));
        }
    }
    if *reported_built {
        let from = deriver.as_ref().map(|path| format!(" from {}", path.absolute())).unwrap_or_default();
        add("built", &format!("by that job{from}, as it says itself: nobody has verified that"));
    }
    add("NAR", &format!("{nar_hash}, {}", show_size(*nar_size)));
    lines
}

fn by_issuer(issuer: Option<&str>) -> String {
    match issuer {
        Some(issuer) => format!("by {issuer}"),
        None => "by an issuer that is told to those who may push there, by LARDER_TOKEN".to_owned(),
    }
}

pub(super) fn fail(error: &dyn std::fmt::Display, exit: Exit) -> Exit {
    output::note(&format!("error: {error}"));
    exit
}

impl Credentials {
    /// A person's token, of `token_file` or else of `LARDER_TOKEN`; none if there is neither.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn of_person(token_file: Option<&Path>) -> Result<Option<Self>, CredentialsError> {
        match Self::find(token_file) {
            Ok(found @ Self::Static(_)) => Ok(Some(found)),
            Ok(Self::Job { .. }) | Err(CredentialsError::None) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_protocol::{NarHash, provenance::PushingJob};

    use super::*;

    #[test]
    fn nothing_that_a_job_calls_itself_looks_like_another_line() {
        let nasty = "x\n  actor     rosa\r\u{1b}[1A\u{202e}%0A::set-output name=a::b";
        let job = PushingJob {
            issuer: Some(nasty.into()),
            repository: nasty.into(),
            commit: nasty.into(),
            git_ref: nasty.into(),
            event: nasty.into(),
            workflow: Some(nasty.into()),
            run: 7,
            attempt: 1,
            run_url: Some(nasty.into()),
            actor: Some(nasty.into()),
        };
        let path: StorePath = "s66mzxpvicwk07gjbjfw9izjfa797vsw-hello".parse().unwrap();
        let mut provenance = Provenance {
            cache: "main".parse().unwrap(),
            path: path.clone(),
            nar_hash: NarHash([7; 32]),
            nar_size: 1,
            deriver: Some(path),
            pushed_at: nasty.into(),
            pushed_by: PushedBy::Job(Box::new(job)),
            reported_built: true,
        };
        let all = [
            provenance.pushed_by.clone(),
            PushedBy::Subject { issuer: nasty.into(), subject: nasty.into() },
            PushedBy::Withheld { issuer: Some(nasty.into()) },
            PushedBy::Person { name: nasty.into() },
            PushedBy::Prefetch { from: Some(nasty.into()) },
        ];
        for pushed_by in all {
            provenance.pushed_by = pushed_by;
            for line in tell(&provenance) {
                assert!(!line.contains(['\n', '\r', '\u{1b}', '\u{202e}']), "{line:?}");
            }
        }
    }
}
