//! Deliveries that the service missed: it asks GitHub for them, and for no others.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use larder_tests::{
    github::{App, GitHub, HookOf},
    world::{Scene, World, secret_file},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of this test alone";
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

struct Scenery {
    world: World,
    app: App,
    /// The App's installation on acme.
    installation: u64,
    _files: TempDir,
}

/// A service that is an App with these permissions, installed on acme and on beta.
async fn scenery(permissions: &[(&str, &str)]) -> Scenery {
    let files = TempDir::new().unwrap();
    let write = |name: &str, text: &str| secret_file(&files.path().join(name), text);
    let mut app = None;
    let world = World::with_github(|github: &GitHub| {
        github.add_repository("acme/flake");
        let registered = github.register_app(permissions);
        github.add_repository("beta/flake");
        let installation = github.install(&registered, "acme", None);
        github.install(&registered, "beta", None);
        github.add_user("me");
        github.add_repository("me/flake");
        github.install(&registered, "me", None);
        let caches = format!(
            "[github]\napi_url = \"{}\"\napp_id = {}\nprivate_key_file = \"{}\"\n\
             [[webhook]]\nrepositories = [\"acme/flake\", \"acme/*\", \"beta/flake\", \"me/*\"]\nsecrets = [{{ file = \"{}\" }}]\n\
             [[cache]]\nname = \"main\"\n",
            github.api_url(),
            registered.id,
            write("key", &registered.private_key),
            write("secret", SECRET),
        );
        app = Some((registered, installation));
        Scene { caches, ..Scene::default() }
    })
    .await;
    let (app, installation) = app.unwrap();
    Scenery { world, app, installation, _files: files }
}

impl Scenery {
    fn hook(&self, of: HookOf) -> u64 {
        self.world.github.add_hook(of, &format!("{}/webhooks/github", self.world.url()), SECRET)
    }

    async fn send(&self, hook: u64, number: u32) -> String {
        self.world.github.send_event(hook, "ping", &payload(number)).await
    }

    /// Lets time go by, and waits until all that is due then is done, here and at GitHub.
    async fn pass(&self, seconds: i64) {
        // Once it answers, its jobs are there.
        self.world.get("nix-cache-info").await;
        self.world.advance(seconds);
        let queue = &self.world.service().queue;
        queue.wake();
        queue.idle().await.unwrap();
        self.world.github.delivered().await;
        queue.idle().await.unwrap();
    }

    async fn stored(&self) -> usize {
        self.world.service().metadata.deliveries(10_000).await.unwrap().len()
    }

    /// How often GitHub was asked for deliveries, and for pages of them.
    fn asked(&self) -> (usize, usize) {
        let requests = self.world.github.api_requests();
        let count = |what: &str| requests.iter().filter(|request| request.contains(what)).count();
        (count("/attempts"), count("/deliveries?"))
    }
}

fn payload(number: u32) -> Value {
    json!({ "zen": "x", "number": number, "repository": { "full_name": "acme/flake" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_the_service_was_away_is_asked_for_and_nothing_else() {
    let mut this = scenery(&[]).await;
    let hook = this.hook(HookOf::App(this.app.id));
    let elsewhere =
        this.world.github.add_hook(HookOf::Owner("acme".to_owned()), "http://127.0.0.1:9/", SECRET);
    this.send(hook, 0).await;
    this.pass(0).await;
    let (_, pages) = this.asked();
    this.world.stop().await;
    let mut missed = Vec::new();
    // Some of them so that one page does not hold all.
    for number in 1..=130 {
        missed.push(this.send(hook, number).await);
    }
    this.send(elsewhere, 1).await;
    this.world.advance(HOUR);
    this.world.start().await;
    this.pass(0).await;
    assert_eq!(this.asked(), (60, pages + 2), "what is asked for at one look is bounded");
    this.pass(MINUTE).await;
    this.pass(MINUTE).await;
    assert_eq!(this.stored().await, 131);
    let again: Vec<_> =
        this.world.github.deliveries(hook).into_iter().filter(|attempt| attempt.redelivery).collect();
    assert_eq!(again.len(), 130);
    assert!(again.iter().all(|attempt| attempt.status_code == 202 && missed.contains(&attempt.guid)));
    // Nothing is missing any more.
    let (asked, _) = this.asked();
    this.pass(5 * MINUTE).await;
    this.pass(2 * HOUR).await;
    assert_eq!(this.asked().0, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_enterprise_server_still_has_is_asked_for() {
    let mut this = scenery(&[]).await;
    this.world.github.keep_deliveries(7 * DAY);
    let hook = this.hook(HookOf::App(this.app.id));
    this.pass(0).await;
    this.world.stop().await;
    this.world.advance(HOUR);
    this.send(hook, 1).await;
    this.world.advance(5 * DAY);
    this.world.start().await;
    this.pass(0).await;
    assert_eq!(this.stored().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_again_is_asked_for_once_an_hour_and_given_up() {
    let this = scenery(&[]).await;
    let good = this.hook(HookOf::App(this.app.id));
    // Refused: signed with something else.
    let github = &this.world.github;
    github.change_secret(good, "something else altogether");
    this.send(good, 1).await;
    let mut asked = Vec::new();
    for _ in 0..4 {
        for _ in 0..11 {
            this.pass(5 * MINUTE).await;
        }
        asked.push(this.asked().0);
    }
    assert_eq!(asked, [1, 2, 2, 2]);
    // Lost on its way: as long as GitHub has it.
    github.change_secret(good, SECRET);
    github.lose(good, "ping", &payload(2));
    github.lose_attempts(good, true);
    let before = this.asked().0;
    for _ in 0..30 {
        this.pass(HOUR).await;
    }
    assert_eq!(this.asked().0 - before, 24);
    github.lose_attempts(good, false);
    github.lose(good, "ping", &payload(3));
    this.pass(5 * MINUTE).await;
    this.pass(5 * MINUTE).await;
    assert_eq!(this.stored().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_repositories_and_organisations_are_looked_after_where_the_app_may() {
    for (permission, of) in [
        ("repository_hooks", HookOf::Repository("acme/flake".to_owned())),
        ("organization_hooks", HookOf::Owner("acme".to_owned())),
    ] {
        let this = scenery(&[(permission, "write")]).await;
        let hook = this.hook(of.clone());
        this.world.github.lose(hook, "ping", &payload(1));
        this.pass(5 * MINUTE).await;
        assert_eq!(this.stored().await, 1, "{of:?}");
        let mut scopes = this.world.github.token_scopes();
        // By which it is known what an account has.
        scopes.retain(|(_, permissions)| permissions != "metadata=read");
        assert!(
            scopes.iter().all(|(_, permissions)| *permissions == format!("{permission}=write")),
            "{scopes:?}"
        );
    }
    // Where it may not, it does not, and the rest goes on.
    let this = scenery(&[]).await;
    let hook = this.hook(HookOf::Repository("acme/flake".to_owned()));
    let own = this.hook(HookOf::App(this.app.id));
    for hook in [hook, own] {
        this.world.github.lose(hook, "ping", &payload(1));
    }
    this.pass(5 * MINUTE).await;
    assert_eq!(this.stored().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_repositories_that_a_pattern_means_are_looked_after() {
    let this = scenery(&[("repository_hooks", "write")]).await;
    this.world.github.add_repository("acme/other");
    for repository in ["acme/other", "me/flake"] {
        let hook = this.hook(HookOf::Repository(repository.to_owned()));
        this.world.github.lose(hook, "ping", &payload(1));
    }
    this.pass(5 * MINUTE).await;
    assert_eq!(this.stored().await, 2);
    let asked = this.world.github.api_requests();
    assert!(!asked.iter().any(|request| request.contains("/orgs/me/")), "{asked:#?}");
    // Where it may not, that is seen once.
    let this = scenery(&[]).await;
    this.world.github.add_repository("acme/other");
    this.pass(5 * MINUTE).await;
    let asked = this.world.github.api_requests();
    assert!(asked.iter().any(|request| request.contains("/repos/acme/flake/installation")), "{asked:#?}");
    assert!(!asked.iter().any(|request| request.contains("/repos/acme/other/")), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_are_more_places_than_one_look_reaches_the_next_one_goes_on() {
    let this = scenery(&[("repository_hooks", "write")]).await;
    let names: Vec<String> = (0..130).map(|number| format!("acme/of-many-{number}")).collect();
    for name in &names {
        this.world.github.add_repository(name);
    }
    for name in [&names[0], &names[60], &names[129]] {
        let hook = this.hook(HookOf::Repository(name.clone()));
        this.world.github.lose(hook, "ping", &payload(1));
    }
    for _ in 0..3 {
        this.pass(5 * MINUTE).await;
    }
    assert_eq!(this.stored().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_app_is_installed_otherwise_nothing_of_before_is_used() {
    for event in ["installation", "installation_repositories"] {
        let this = scenery(&[("repository_hooks", "write")]).await;
        let hook = this.hook(HookOf::App(this.app.id));
        // Where it is installed is asked for, and then for a token.
        let asked = || {
            let requests = this.world.github.api_requests();
            let count = |what: &str| {
                requests
                    .iter()
                    .filter(|request| request.contains("acme/flake") && request.ends_with(what))
                    .count()
            };
            (count("/installation"), this.world.github.token_scopes().len())
        };
        this.pass(0).await;
        let before = asked();
        this.pass(5 * MINUTE).await;
        assert_eq!(asked(), before, "what is known is asked for again");
        let payload = json!({ "action": "added", "installation": { "id": this.installation, "account": { "login": "acme" } } });
        this.world.github.send_event(hook, event, &payload).await;
        this.pass(5 * MINUTE).await;
        let (installations, tokens) = asked();
        assert!(installations > before.0 && tokens > before.1, "{event}: {before:?} {:?}", asked());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_limit_is_waited_for_and_other_work_goes_on() {
    let this = scenery(&[]).await;
    let hook = this.hook(HookOf::App(this.app.id));
    this.pass(0).await;
    this.world.github.lose(hook, "ping", &payload(1));
    this.world.github.limit_requests(0);
    this.pass(5 * MINUTE).await;
    let asked = this.world.github.api_requests().len();
    this.send(hook, 2).await;
    this.pass(30 * MINUTE).await;
    assert_eq!((this.stored().await, this.world.github.api_requests().len()), (1, asked));
    this.pass(30 * MINUTE).await;
    assert_eq!(this.stored().await, 2);
    this.pass(2 * DAY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_looked_at_keeps_no_other_from_being_looked_at() {
    let hold_up: [fn(&GitHub, u64); 2] = [GitHub::suspend, GitHub::spend_requests_of];
    for hold_up in hold_up {
        let this = scenery(&[("repository_hooks", "write")]).await;
        this.hook(HookOf::Repository("acme/flake".to_owned()));
        let later = this.hook(HookOf::Repository("beta/flake".to_owned()));
        let github = &this.world.github;
        github.lose(later, "ping", &payload(1));
        hold_up(github, this.installation);
        this.pass(5 * MINUTE).await;
        assert_eq!(this.stored().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_nothing_is_not_asked_about_place_after_place() {
    let this = scenery(&[("repository_hooks", "write")]).await;
    this.pass(0).await;
    let asked = this.world.github.api_requests().len();
    this.world.github.break_down();
    this.pass(5 * MINUTE).await;
    // The App and three places were to be asked about.
    assert_eq!(this.world.github.api_requests().len() - asked, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_look_does_not_reach_the_next_one_does() {
    let this = scenery(&[]).await;
    let hook = this.hook(HookOf::App(this.app.id));
    this.world.github.lose(hook, "ping", &payload(0));
    this.world.advance(1);
    for number in 1..=210 {
        this.send(hook, number).await;
    }
    this.world.github.limit_pages(1);
    for _ in 0..3 {
        this.pass(5 * MINUTE).await;
    }
    assert_eq!(this.stored().await, 211);
}
