//! What GitHub's API is needed for, and the service may not: the log says what is missing, and says it once.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_service::clock::Clock;
use larder_tests::{
    client::Client,
    github::{App, GitHub, Job},
    larderd::Larderd,
    package::Package,
    webhook::deliver,
    world::{Scene, secret_file},
};
use serde_json::json;
use tempfile::TempDir;

const SECRET: &str = "a secret of this test alone";
const CONTENTS: &str = "Repository permissions, Contents: Read-only";
const CHECKS: &str = "Repository permissions, Checks: Read and write";
const HOOKS: &str = "Repository permissions, Webhooks: Read and write";
const NO_APP: &str = "the service speaks as no GitHub App, and this takes one with the permission {}. Write github.app_id and \
     github.private_key_file in larder.toml";
const MAY_NOT: &str =
    "the GitHub App may not do that for acme/flake. Give it the permission {}, and accept that";

struct Scenery {
    github: GitHub,
    larderd: Larderd,
    _files: TempDir,
}

/// A service to whose private cache acme's jobs may push, and GitHub, where all that acme has is private.
async fn scenery(set_up: impl FnOnce(&GitHub) -> Option<App>) -> Scenery {
    let files = TempDir::new().unwrap();
    let write = |name: &str, text: &str| secret_file(&files.path().join(name), text);
    let github = GitHub::start(Clock::System).await;
    github.add_private_repository("acme/flake");
    github.add_private_repository("acme/other");
    github.add_repository("acme/open");
    for repository in ["acme/flake", "acme/other", "acme/open"] {
        github.commit(repository, "refs/heads/main", &Job::default().sha, &[]);
    }
    let app = set_up(&github).map(|app| {
        format!("app_id = {}\nprivate_key_file = \"{}\"\n", app.id, write("key", &app.private_key))
    });
    let caches = format!(
        "[github]\napi_url = \"{}\"\n{}\
         [[webhook]]\nrepositories = [\"acme/flake\", \"acme/other\", \"acme/open\"]\nsecrets = [{{ file = \"{}\" }}]\n\
         [[cache]]\nname = \"main\"\npublic = false\nupstream = []\n\
         [[cache.trust]]\nrepository = \"acme/*\"\nref = \"refs/heads/main\"\n",
        github.api_url(),
        app.unwrap_or_default(),
        write("secret", SECRET),
    );
    let scene = Scene { caches, ..Scene::default() };
    let larderd = Larderd::start(files.path(), github.issuer(), &scene).await;
    Scenery { github, larderd, _files: files }
}

impl Scenery {
    async fn push(&self, check_run_id: u64) {
        let job = Job { visibility: "private".to_owned(), check_run_id, ..Job::default() };
        let token = self.github.id_token(&job, &self.larderd.url());
        let session = Client::exchange(&self.larderd.url(), "main", &token).await.unwrap();
        session.push(&[&Package::noise(&format!("pushed-{check_run_id}"), 1000)]).await.unwrap();
    }

    /// GitHub says that the commit came to a repository's main branch.
    async fn tell(&self, repository: &str, commit: &str) {
        let payload = json!({
            "ref": "refs/heads/main", "after": commit,
            "repository": { "full_name": repository, "private": repository != "acme/open", "default_branch": "main" },
        });
        deliver(&self.larderd.url(), SECRET, "push", &payload).await;
    }

    /// Waits until the log says what is missing and for what.
    async fn says(&self, level: &str, what: &str, why: &str, permission: &str) -> String {
        let why = why.replace("{}", permission);
        self.larderd.says(&[level, what, &why]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_app_the_log_says_once_what_takes_one() {
    let this = scenery(|_| None).await;
    this.says("INFO", "missed deliveries are not asked for", NO_APP, HOOKS).await;
    this.push(1).await;
    this.says("INFO", "no check runs are written", NO_APP, CHECKS).await;
    this.push(2).await;

    // What everybody sees has no lock file; of what is private nobody can tell.
    this.tell("acme/open", &Job::default().sha).await;
    this.tell("acme/flake", &Job::default().sha).await;
    let unread = "repository=acme/flake";
    let line = this.says("WARN", unread, NO_APP, CONTENTS).await;
    assert!(line.contains("no inputs of its flake.lock are prefetched"), "{line}");
    this.tell("acme/flake", &"b".repeat(40)).await;
    this.tell("acme/other", &Job::default().sha).await;
    this.says("WARN", "repository=acme/other", NO_APP, CONTENTS).await;
    let log = this.larderd.log();
    for once in [line.split_once("WARN").unwrap().1, "no check runs are written", "missed deliveries are not"]
    {
        assert_eq!(log.matches(once).count(), 1, "{once}:\n{log}");
    }
    assert!(!log.contains("repository=acme/open"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_app_may_not_do_the_log_says_with_the_permission() {
    let this = scenery(|github| {
        let app = github.register_app(&[("issues", "read")]);
        github.install(&app, "acme", None);
        Some(app)
    })
    .await;
    this.says("WARN", "missed deliveries are not asked for there", MAY_NOT, HOOKS).await;
    this.push(1).await;
    this.tell("acme/flake", &Job::default().sha).await;
    this.says("WARN", "no inputs of its flake.lock are prefetched", MAY_NOT, CONTENTS).await;
    this.says("INFO", "no check runs are written there", MAY_NOT, CHECKS).await;
}
