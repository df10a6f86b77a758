//! What the stand-in knows: Apps, where they are installed, repositories and what is in them.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;

use super::{
    checks::CheckRun,
    hooks::{Hook, Sending},
    limits::Limits,
};
use crate::github::{GitHub, Key};

/// Permissions and their levels: `read` or `write`.
pub(super) type Permissions = BTreeMap<String, String>;

/// All that the API knows.
#[derive(Default)]
pub(in crate::github) struct State {
    pub(super) apps: Vec<KnownApp>,
    pub(super) installations: Vec<Installation>,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) repositories: Vec<Repository>,
    /// Accounts that are no organisations.
    pub(super) users: BTreeSet<String>,
    pub(super) checks: Vec<CheckRun>,
    pub(super) hooks: Vec<Hook>,
    pub(super) limits: Limits,
    pub(super) requests: Vec<String>,
    pub(super) sending: Sending,
    /// The longest page of deliveries, if a test says so.
    pub(super) longest_page: Option<usize>,
    /// How long deliveries are kept, if a test says so.
    pub(super) deliveries_kept: Option<i64>,
    last_id: u64,
}

pub(super) struct KnownApp {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) permissions: Permissions,
}

/// An App, as whoever registered it knows it.
#[derive(Debug, Clone)]
pub struct App {
    /// Its number.
    pub id: u64,
    /// The key that GitHub made for it, in PEM.
    pub private_key: String,
}

#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) id: u64,
    pub(super) app: u64,
    /// Whose account it is.
    pub(super) owner: String,
    /// All of the owner's, if none is named.
    pub(super) repositories: Option<BTreeSet<RepositoryId>>,
    pub(super) permissions: Permissions,
    /// Since when its owner lets it do nothing.
    pub(super) suspended_at: Option<i64>,
}

/// An installation's access token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) installation: u64,
    pub(super) repositories: Option<BTreeSet<RepositoryId>>,
    pub(super) permissions: Permissions,
    pub(super) expires_at: i64,
}

/// A repository's number.
pub type RepositoryId = u64;

/// A tree: files by their paths.
pub(super) type Tree = BTreeMap<String, Vec<u8>>;

pub(super) struct Repository {
    pub(super) id: RepositoryId,
    /// `owner/name`.
    pub(super) name: String,
    pub(super) private: bool,
    /// By commit.
    pub(super) trees: BTreeMap<String, Tree>,
    /// Commits by whole ref.
    pub(super) refs: BTreeMap<String, String>,
    /// What one needs to fetch its archives, while it is private.
    pub(super) archive_token: String,
}

impl Repository {
    pub(super) fn owner(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// The commit that a commit, branch, tag or ref stands for; without one, the default branch's.
    pub(super) fn commit(&self, at: Option<&str>) -> Option<&str> {
        let at = at.unwrap_or("main");
        if let Some((sha, _)) = self.trees.get_key_value(at) {
            return Some(sha);
        }
        let named =
            [at.to_owned(), format!("refs/heads/{at}"), format!("refs/tags/{at}"), format!("refs/{at}")];
        named.iter().find_map(|name| self.refs.get(name)).map(String::as_str)
    }
}

impl State {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repository| repository.name.eq_ignore_ascii_case(name))
    }
}

pub(super) fn secret() -> String {
    let mut bytes = [0u8; 18];
    getrandom::fill(&mut bytes).unwrap();
    HEXLOWER.encode(&bytes)
}

pub(super) fn permissions(of: &[(&str, &str)]) -> Permissions {
    of.iter().map(|(name, level)| ((*name).to_owned(), (*level).to_owned())).collect()
}

impl GitHub {
    /// Registers an App that asks for these permissions, each `read` or `write`.
    pub fn register_app(&self, of: &[(&str, &str)]) -> App {
        let key = Key::generate();
        let private_key = key.private_pem();
        let mut state = self.hub.api();
        let id = 100_000 + state.next_id();
        state.apps.push(KnownApp { id, key, permissions: permissions(of) });
        App { id, private_key }
    }

    /// Installs an App on an account: for these of its repositories, or for all. Tells the installation's number.
    pub fn install(&self, app: &App, owner: &str, repositories: Option<&[&str]>) -> u64 {
        let mut state = self.hub.api();
        let id = 50_000 + state.next_id();
        let permissions = state.apps.iter().find(|known| known.id == app.id).unwrap().permissions.clone();
        let number = |name: &&str| state.repository(name).expect("there is such a repository").id;
        let repositories = repositories.map(|names| names.iter().map(number).collect());
        state.installations.push(Installation {
            id,
            app: app.id,
            owner: owner.to_owned(),
            repositories,
            permissions,
            suspended_at: None,
        });
        id
    }

    /// Lets an installation do nothing from now on.
    pub fn suspend(&self, installation: u64) {
        let now = self.hub.clock.now();
        let mut state = self.hub.api();
        state.tokens.retain(|_, token| token.installation != installation);
        let known = state.installations.iter_mut().find(|known| known.id == installation);
        known.unwrap().suspended_at = Some(now);
    }

    /// What an installation may do from now on, as when its owner has not agreed to all that the App asks for.
    pub fn permit(&self, installation: u64, of: &[(&str, &str)]) {
        let mut state = self.hub.api();
        let installation = state.installations.iter_mut().find(|known| known.id == installation).unwrap();
        installation.permissions = permissions(of);
    }

    /// Takes an installation away, and all its tokens.
    pub fn uninstall(&self, installation: u64) {
        let mut state = self.hub.api();
        state.installations.retain(|known| known.id != installation);
        state.tokens.retain(|_, token| token.installation != installation);
    }

    /// Makes all access tokens useless before their time.
    pub fn revoke_tokens(&self) {
        self.hub.api().tokens.clear();
    }

    /// An account that is no organisation.
    pub fn add_user(&self, name: &str) {
        self.hub.api().users.insert(name.to_owned());
    }

    /// A public repository, with nothing in it.
    pub fn add_repository(&self, name: &str) -> RepositoryId {
        self.new_repository(name, false)
    }

    /// A repository that is shown to nobody else.
    pub fn add_private_repository(&self, name: &str) -> RepositoryId {
        self.new_repository(name, true)
    }

    fn new_repository(&self, name: &str, private: bool) -> RepositoryId {
        let mut state = self.hub.api();
        let id = match state.repositories.is_empty() {
            // That of `Job::default`.
            true => 610_214_307,
            false => 610_000_000 + state.next_id(),
        };
        state.repositories.push(Repository {
            id,
            name: name.to_owned(),
            private,
            trees: BTreeMap::new(),
            refs: BTreeMap::new(),
            archive_token: secret(),
        });
        id
    }

    /// A commit with this tree, at which the ref is from now on.
    pub fn commit(&self, repository: &str, git_ref: &str, sha: &str, files: &[(&str, &[u8])]) {
        let mut state = self.hub.api();
        let known = state.repositories.iter_mut().find(|known| known.name == repository).unwrap();
        let tree = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        known.trees.insert(sha.to_owned(), tree);
        known.refs.insert(git_ref.to_owned(), sha.to_owned());
    }
}
