//! Names that become somebody else's.

use http::StatusCode;
use larder_service::{
    audit::{Kind, Who},
    metadata::{AuditFilter, NameRow},
};
use serde_json::{Value, json};

use crate::world::World;

const MAIN: &str = "[[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n";

/// Deleted, and made again by another owner of the same name.
fn made_again() -> Value {
    json!({"repository_id": "99", "repository_owner_id": "98"})
}

impl World {
    async fn grants(&self, changes: &Value) {
        let (status, answer) = self.exchange(&self.changed(changes)).await;
        assert_eq!(status, StatusCode::OK, "{changes}: {answer}");
    }

    async fn suspects(&self, changes: &Value) {
        let reason = "is not what it was when it was first trusted";
        self.refuses(&self.changed(changes), StatusCode::FORBIDDEN, reason).await;
    }

    async fn names(&self) -> Vec<NameRow> {
        self.service.metadata.all_bound_names().await.unwrap()
    }

    async fn kinds_on_record(&self) -> Vec<String> {
        self.service.audit.flush().await;
        let filter = AuditFilter { limit: 100, ..AuditFilter::default() };
        let rows = self.service.metadata.audit(&filter).await.unwrap();
        rows.into_iter().map(|row| row.kind).filter(|kind| kind.starts_with("name-")).collect()
    }
}

#[tokio::test]
async fn the_first_token_whose_claims_all_match_binds_the_name() {
    let mut world = World::trusting(MAIN).await;
    // One that does not fit binds nothing: else whoever has the name for a day could.
    world.refuses(&world.changed(&json!({"ref": "refs/heads/dev"})), StatusCode::FORBIDDEN, "dev").await;
    assert_eq!(world.names().await, []);

    world.grants(&json!({})).await;
    let [row] = &world.names().await[..] else { panic!() };
    assert_eq!((row.cache.as_str(), &row.issuer), ("main", &world.issuer.url));
    assert_eq!(row.bound.name.as_str(), "acme/flake");
    assert_eq!(row.bound.numbers.to_string(), "repository number 42 of owner number 7");
    world.grants(&json!({"repository": "Acme/FLAKE"})).await;

    world.restart().await;
    for changes in [made_again(), json!({"repository_id": "99"}), json!({"repository_owner_id": "98"})] {
        let mut other = World::trusting(MAIN).await;
        other.grants(&json!({})).await;
        other.restart().await;
        other.suspects(&changes).await;
    }
    assert_eq!(world.kinds_on_record().await, [Kind::NameBound.as_str()]);
}

#[tokio::test]
async fn a_transfer_suspends_the_name_until_it_is_confirmed() {
    let mut world = World::trusting(MAIN).await;
    world.grants(&json!({})).await;
    world.suspects(&made_again()).await;
    // For everybody, the first one too: nobody knows which of them was meant.
    world.suspects(&json!({})).await;
    world.restart().await;
    world.suspects(&json!({})).await;
    // What was found first is what can be confirmed, whoever came since.
    world.suspects(&json!({"repository_id": "1234"})).await;
    let [row] = &world.names().await[..] else { panic!() };
    let found = row.bound.suspended.unwrap().found;
    assert_eq!(found.to_string(), "repository number 99 of owner number 98");

    let metadata = &world.service.metadata;
    assert!(metadata.confirm_name(row, found, Who::operator(), world.now()).await.unwrap());
    assert!(!metadata.confirm_name(row, found, Who::operator(), world.now()).await.unwrap());
    world.grants(&made_again()).await;
    assert_eq!(world.kinds_on_record().await, ["name-bound", "name-suspended", "name-confirmed"]);
    world.suspects(&json!({})).await;
}

/// What the one who had the name left behind, as in a job's log, does not undo the confirmation.
#[tokio::test]
async fn a_used_token_of_the_former_owner_suspends_nothing() {
    let world = World::trusting(MAIN).await;
    let former = world.changed(&json!({}));
    assert_eq!(world.exchange(&former).await.0, StatusCode::OK);
    world.suspects(&made_again()).await;
    let [row] = &world.names().await[..] else { panic!() };
    let found = row.bound.suspended.unwrap().found;
    assert!(world.service.metadata.confirm_name(row, found, Who::operator(), world.now()).await.unwrap());
    world.refuses(&former, StatusCode::UNAUTHORIZED, "exchanged before").await;
    world.grants(&made_again()).await;
    assert_eq!(world.kinds_on_record().await, ["name-bound", "name-suspended", "name-confirmed"]);
}

/// Nor does one that was never used. What comes after the confirmation does.
#[tokio::test]
async fn a_token_from_before_a_name_was_confirmed_or_bound_anew_suspends_nothing() {
    for confirmed in [true, false] {
        let world = World::trusting(MAIN).await;
        world.grants(&json!({})).await;
        let former = [(); 2].map(|()| world.changed(&json!({})));
        world.pass(60);
        world.suspects(&made_again()).await;
        world.pass(60);
        let [row] = &world.names().await[..] else { panic!() };
        let (metadata, found) = (&world.service.metadata, row.bound.suspended.unwrap().found);
        if confirmed {
            assert!(metadata.confirm_name(row, found, Who::operator(), world.now()).await.unwrap());
        } else {
            metadata.unbind_name(row, Who::operator(), world.now()).await.unwrap();
            // Not even if it comes first.
            let reason =
                "the token is older than the `larderd rules unbind acme/flake` of whoever runs the service";
            world.refuses(&former[0], StatusCode::FORBIDDEN, reason).await;
            world.pass(60);
            world.grants(&made_again()).await;
        }
        let reason = "is not what it was when it was first trusted";
        for former in &former {
            world.refuses(former, StatusCode::FORBIDDEN, reason).await;
            world.grants(&made_again()).await;
        }
        assert_eq!(world.names().await[0].bound.suspended, None);
        world.pass(60);
        world.suspects(&json!({})).await;
        world.suspects(&made_again()).await;
    }
}

#[tokio::test]
async fn what_is_forgotten_is_bound_anew() {
    let world = World::trusting(MAIN).await;
    world.grants(&json!({})).await;
    world.suspects(&made_again()).await;
    let [row] = &world.names().await[..] else { panic!() };
    world.service.metadata.unbind_name(row, Who::operator(), world.now()).await.unwrap();
    world.grants(&json!({})).await;
    assert_eq!(world.kinds_on_record().await, ["name-bound", "name-suspended", "name-unbound", "name-bound"]);
}

#[tokio::test]
async fn of_two_that_come_first_at_once_one_has_the_name() {
    let world = World::trusting(MAIN).await;
    let (first, second) = (world.changed(&json!({})), world.changed(&made_again()));
    let both = futures_util::future::join(world.exchange(&first), world.exchange(&second)).await;
    let granted = [both.0.0, both.1.0].iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(granted, 1, "{both:?}");
    assert_eq!(world.names().await.len(), 1);
}

#[tokio::test]
async fn a_rule_for_an_owner_trusts_the_owner_and_each_of_its_repositories() {
    for rule in [
        "repository_owner = \"Acme\"",
        "repository = \"acme/*\"",
        "repository = \"acme/flake\"\nrepository_id = 42",
    ] {
        let world = World::trusting(&format!("[[cache.trust]]\n{rule}\nref = \"refs/heads/main\"\n")).await;
        world.grants(&json!({})).await;
        let [row] = &world.names().await[..] else { panic!() };
        assert_eq!(
            (row.bound.name.as_str(), row.bound.numbers.to_string()),
            ("acme", "owner number 7".to_owned())
        );
        if !rule.contains("flake") {
            // The owner made it: it may make others.
            world.grants(&json!({"repository": "acme/other", "repository_id": "43"})).await;
            world.grants(&json!({"repository_id": "44"})).await;
        }
        world.suspects(&json!({"repository_owner_id": "98"})).await;
        world.suspects(&json!({})).await;
    }
}

#[tokio::test]
async fn numbers_in_the_configuration_need_no_binding() {
    let both = "[[cache.trust]]\nrepository = \"acme/flake\"\nrepository_id = 42\nrepository_owner_id = 7\n\
                ref = \"refs/heads/main\"\n";
    let mut world = World::trusting(both).await;
    world.grants(&json!({})).await;
    assert_eq!(world.names().await, []);
    let reason = "another repository has this name now";
    world.refuses(&world.changed(&made_again()), StatusCode::FORBIDDEN, reason).await;
    world.grants(&json!({})).await;

    // Whoever writes the number down says what was meant, whatever was bound before.
    world.restart_with("repository_id = 42\nrepository_owner_id = 7\n", "").await;
    world.grants(&json!({})).await;
    world.suspects(&made_again()).await;
    world
        .restart_with(
            "repository = \"acme/flake\"\n",
            "repository = \"acme/flake\"\nrepository_id = 99\nrepository_owner_id = 98\n",
        )
        .await;
    world.grants(&made_again()).await;
}

#[tokio::test]
async fn each_cache_binds_names_of_its_own() {
    let config = format!(
        "[[issuer]]\nurl = \"ISSUER\"\n[[cache]]\nname = \"main\"\n{MAIN}[[cache]]\nname = \"other\"\n{MAIN}"
    );
    let world = World::with(crate::issuer::Key::new("first"), &config).await;
    world.grants(&json!({})).await;
    let (status, _) = world.exchange_for("other", &world.changed(&made_again())).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(world.names().await.len(), 2);
}

#[tokio::test]
async fn whoever_runs_the_service_sees_confirms_and_unbinds_names() {
    let other =
        "[[cache.trust]]\nrepository_owner = \"acme\"\nref_protected = true\npermissions = [\"pin\"]\n";
    let world = World::trusting(&format!("{MAIN}{other}")).await;
    let (status, said, _) = world.larderd(&["rules"]).await;
    assert_eq!(status, Some(0));
    assert_eq!(
        said,
        "cache main\n  \
         1. acme/flake on refs/heads/main, at merge_group, push, release, schedule, workflow_dispatch\n     \
         acme/flake is not bound yet: the first token whose claims all match will bind it\n  \
         2. repositories of acme, protected refs alone, at merge_group, push, release, schedule, workflow_dispatch, \
         to pin alone, with rank 10\n     \
         acme is not bound yet: the first token whose claims all match will bind it\n"
    );
    assert_eq!(world.larderd(&["rules", "confirm", "acme/flake"]).await.0, Some(1));

    world.grants(&json!({})).await;
    world.suspects(&made_again()).await;
    let (_, said, _) = world.larderd(&["rules"]).await;
    for part in [
        "acme/flake is repository number 42 of owner number 7 (by token, ",
        "SUSPENDED ",
        "it was seen as repository number 99 of owner number 98. If that is meant: larderd rules confirm acme/flake",
        "acme is owner number 7 (by token, ",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    let (_, said, _) = world.larderd(&["rules", "--json"]).await;
    let rules: Value = serde_json::from_str(&said).unwrap();
    let rule = &rules[0];
    assert_eq!(
        (&rule["cache"], &rule["number"], &rule["issuer"]),
        (&json!("main"), &json!(1), &json!(world.issuer.url))
    );
    assert_eq!((&rule["permissions"], &rule["rank"]), (&json!(["push", "read"]), &json!(0)));
    assert_eq!(
        rule["names"],
        json!([{
            "name": "acme/flake", "state": "suspended", "source": "token", "bound_at": world.now(),
            "numbers": {"repository_id": 42, "owner_id": 7}, "suspended_at": world.now(), "unbound_at": null,
            "found": {"repository_id": 99, "owner_id": 98},
        }])
    );
    assert_eq!(rules[1]["names"][0]["state"], "suspended", "its owner is another, too");

    // By a name that is not there, or elsewhere, nothing happens.
    for arguments in [
        &["rules", "confirm", "acme/other"][..],
        &["rules", "confirm", "acme/flake", "--cache", "other"],
        &["rules", "confirm", "acme/flake", "--issuer", "https://example.org"],
        &["rules", "unbind", "evil"],
    ] {
        let (status, _, refusal) = world.larderd(arguments).await;
        assert!(status == Some(1) && refusal.contains("See: larderd rules"), "{arguments:?}: {refusal}");
    }
    world.suspects(&made_again()).await;
    let (status, said, _) = world.larderd(&["rules", "confirm", "Acme/Flake", "--cache", "main"]).await;
    assert_eq!(status, Some(0));
    assert_eq!(
        said,
        "acme/flake was repository number 42 of owner number 7 to the cache main, and is repository number 99 of owner \
         number 98 now\n"
    );
    assert_eq!(
        world.larderd(&["rules", "confirm", "acme/flake"]).await.0,
        Some(1),
        "there is nothing more to confirm"
    );
    world.grants(&made_again()).await;
    assert_eq!(world.larderd(&["rules", "unbind", "acme/flake"]).await.0, Some(0));
    assert_eq!(world.larderd(&["rules", "unbind", "acme"]).await.0, Some(0));
    let (status, _, refusal) = world.larderd(&["rules", "unbind", "acme"]).await;
    assert!(status == Some(1) && refusal.contains("no name \"acme\" is bound there"), "{refusal}");
    let (_, said, _) = world.larderd(&["rules"]).await;
    let unbound =
        " was unbound 0 d ago: the first token from after that whose claims all match will bind it\n";
    assert_eq!(said.matches(unbound).count(), 2, "{said}");
    let (_, said, _) = world.larderd(&["rules", "--json"]).await;
    let rules: Value = serde_json::from_str(&said).unwrap();
    let name = &rules[0]["names"][0];
    assert_eq!((&name["state"], &name["numbers"]), (&json!("unbound"), &json!(null)));
    // The command's clock is the machine's.
    let unbound_at = name["unbound_at"].as_i64().unwrap();
    world.pass((unbound_at + 60 - world.now()).max(0));
    world.grants(&json!({})).await;
    let kinds = world.kinds_on_record().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "name-unbound").count(), 2, "{kinds:?}");

    // A name that no rule has any more is shown, so that it can be forgotten.
    let mut world = world;
    world.restart_with("acme/flake", "acme/else").await;
    let (_, said, _) = world.larderd(&["rules"]).await;
    assert!(said.contains("in no rule any more") && said.contains("cache main: acme/flake is"), "{said}");
    assert_eq!(world.larderd(&["rules", "unbind", "acme/flake"]).await.0, Some(0));
    let (_, said, _) = world.larderd(&["rules"]).await;
    assert!(!said.contains("acme/flake"), "{said}");
}
