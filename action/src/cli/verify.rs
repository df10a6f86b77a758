//! `larder verify`.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::Args;
use larder_protocol::{NarHash, PublicKey, StorePath, nar, plain::one_line};
use sha2::{Digest as _, Sha256};

use super::{
    Exit,
    why::{fail, store_path, tell},
};
use crate::{
    nix_conf, output,
    statement::{self, Checked},
};

/// Longer than any statement.
const MAX_FILE: u64 = 4 << 20;

/// Check a statement about a path, by keys that are known here
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  larder why ./result --service https://cache.example.org --json > result.json
  larder verify result.json ./result
  larder verify result.json --key cache.example.org-main-1:S/UydmJkm7IjhYq41fm1mGrwZF6JDQxJMitET0N5kHk=

It asks nobody: the signature is checked by the keys that --key names, or else by the
trusted-public-keys of nix.conf and NIX_CONFIG. Where the path is in this machine's store,
its files are read and must be what the statement says.

Exit codes: 0 all that could be checked holds, 1 failed, 2 wrong usage, 5 it does not hold:
it was changed, signed by another key, or the path is another or has other files.")]
pub struct VerifyArgs {
    /// What `larder why --json` printed; `-` for standard input
    #[arg(value_name = "STATEMENT")]
    statement: PathBuf,
    /// The path that it must be about: a store path, or a link to one such as ./result
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// A public key that may have signed it, as in trusted-public-keys, instead of those of nix.conf
    #[arg(long = "key", value_name = "NAME:BASE64")]
    keys: Vec<PublicKey>,
    /// The NAR hash that it must tell, instead of reading the path's files
    #[arg(long, value_name = "SHA256")]
    nar_hash: Option<NarHash>,
    /// The root of the Nix store, as Nix's --store takes it
    #[arg(long, value_name = "DIR", default_value = "/")]
    store: PathBuf,
}

impl VerifyArgs {
    pub(super) async fn run(self) -> Exit {
        let verified = tokio::task::spawn_blocking(move || self.verify()).await;
        verified.unwrap_or_else(|error| fail(&error, Exit::Failed))
    }

    fn verify(&self) -> Exit {
        let wanted = match self.path.as_deref().map(store_path).transpose() {
            Ok(wanted) => wanted,
            Err(error) => return fail(&error, Exit::Usage),
        };
        let text = match read(&self.statement) {
            Ok(text) => text,
            Err(error) => return fail(&format!("{}: {error}", self.statement.display()), Exit::Failed),
        };
        let keys = if self.keys.is_empty() { trusted_keys() } else { self.keys.clone() };
        if keys.is_empty() {
            return fail(
                &"no key to check it by: give --key NAME:BASE64, the cache's line of trusted-public-keys",
                Exit::Usage,
            );
        }
        let checked = match statement::check(&text, &keys) {
            Ok(checked) => checked,
            Err(error) => return fail(&format!("the statement does not hold: {error}"), Exit::Wrong),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != checked.path) {
            let (other, wanted) = (checked.path.absolute(), wanted.absolute());
            return fail(
                &format!("the statement does not hold: it is about {other}, not {wanted}"),
                Exit::Wrong,
            );
        }
        self.compare(&checked)
    }

    /// Compares the statement with the path as it is here.
    fn compare(&self, checked: &Checked) -> Exit {
        let here = match self.nar_hash {
            Some(given) => Some(given),
            None => match nar_hash(&self.store, &checked.path) {
                Ok(here) => here,
                Err(error) => return fail(&error, Exit::Failed),
            },
        };
        if let Some(here) = here.filter(|here| *here != checked.nar_hash) {
            let path = checked.path.absolute();
            let problem =
                format!("{path} is not what was pushed: its NAR is {here}, not {}", checked.nar_hash);
            return fail(&problem, Exit::Wrong);
        }
        tell(&checked.provenance).iter().for_each(|line| output::line(line));
        output::line(&format!("  signed    by {}", one_line(checked.key.name())));
        output::line(match here {
            Some(_) => "The signature holds, and the path is as it was pushed.",
            None => {
                "The signature holds. The path is not in this store, so that its files were not compared."
            }
        });
        Exit::Done
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(MAX_FILE).read_to_end(&mut text)?;
    } else {
        File::open(file)?.take(MAX_FILE).read_to_end(&mut text)?;
    }
    Ok(text)
}

/// The keys that Nix trusts here. What is no key Nix does not trust either.
fn trusted_keys() -> Vec<PublicKey> {
    let of_machine = match env::var_os("NIX_CONF_DIR") {
        Some(directory) => fs::read_to_string(Path::new(&directory).join("nix.conf")).ok(),
        None => nix_conf::read(Path::new("/")),
    };
    let of_user = env::home_dir().map(|home| home.join(".config/nix/nix.conf"));
    let settings =
        [of_machine, of_user.and_then(|file| fs::read_to_string(file).ok()), env::var("NIX_CONFIG").ok()];
    let settings: Vec<String> = settings.into_iter().flatten().collect();
    nix_conf::list(&settings.join("\n"), "trusted-public-keys", &[])
        .iter()
        .filter_map(|key| key.parse().ok())
        .collect()
}

/// The hash of the path's files in the store below `root`; none if it is not there.
fn nar_hash(root: &Path, path: &StorePath) -> Result<Option<NarHash>, nar::DumpError> {
    let files = root.join("nix/store").join(path.to_string());
    if files.symlink_metadata().is_err() {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    nar::dump(&files, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(Some(NarHash(hash.finalize().into())))
}
