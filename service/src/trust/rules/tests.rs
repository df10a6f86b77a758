//! Rules against claims, as a table.

use serde_json::{Value, json};

use super::*;
use crate::{
    config::{Config, Environment},
    identity::{Claims, IssuerKind},
    trust::GrantedTo,
};

/// What GitHub would say of a push to main by acme/flake, with `changes`.
fn said(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://token.actions.githubusercontent.com",
        "repository": "acme/flake", "repository_id": "42", "repository_owner": "acme", "repository_owner_id": "7",
        "repository_visibility": "public", "ref": "refs/heads/main", "ref_protected": "true",
        "sha": "0123456789abcdef0123456789abcdef01234567", "event_name": "push",
        "workflow_ref": "acme/flake/.github/workflows/ci.yml@refs/heads/main",
        "run_id": "1000", "run_attempt": "1", "check_run_id": "5000", "actor": "anna", "actor_id": "1",
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn claims(changes: Value) -> TokenClaims {
    TokenClaims::read(IssuerKind::GitHub, said(changes).to_string().as_bytes()).unwrap()
}

fn job(changes: Value) -> Box<Claims> {
    Box::new(claims(changes).job().unwrap().clone())
}

fn rules(text: &str) -> TrustRules {
    let text = format!("public_url = \"https://c.org\"\n[[cache]]\nname = \"main\"\n{text}");
    let environment = Environment::from([("LARDER_DATA_DIR", "/data")]);
    Config::parse("f".as_ref(), &text, &environment).unwrap().caches.remove(0).trust
}

const MAIN: &str = "[[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n";
const PROTECTED: &str = "[[cache.trust]]\nrepository = \"acme/flake\"\nref_protected = true\n";
const NUMBERED: &str =
    "[[cache.trust]]\nrepository = \"acme/flake\"\nrepository_id = 42\nref = \"refs/heads/main\"\n";
const PULLS: &str = "[[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/pull/*/merge\"\nevents = [\"pull_request\"]\n";
const BOTH: &str =
    "[[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/release-*\"\nref_protected = true\n";
const PUBLISH: &str =
    "[[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\npublish = true\n";

const ISOLATED: &str = "[[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n";

#[test]
fn a_rule_says_the_rank_and_whether_a_pull_request_is_kept_apart() {
    let pull = json!({"ref": "refs/pull/12/merge", "event_name": "pull_request", "ref_protected": "false"});
    let apart = Some(PullRequest { repository_id: 42, number: 12 });
    for (text, changes, rank, isolated) in [
        (MAIN.to_owned(), json!({}), 0, None),
        (PROTECTED.to_owned(), json!({}), 10, None),
        (format!("{PROTECTED}rank = 3\n"), json!({}), 3, None),
        (format!("{MAIN}rank = -999\n"), json!({}), -999, None),
        // The highest of those that fit.
        (format!("{MAIN}{PROTECTED}"), json!({}), 10, None),
        (format!("{MAIN}{PROTECTED}"), json!({"ref_protected": "false"}), 0, None),
        (ISOLATED.to_owned(), pull.clone(), 0, apart),
        (format!("{ISOLATED}rank = 1\n"), pull.clone(), 1, apart),
        // Where it fits, a rule that isolates is the only one.
        (format!("{PULLS}rank = 1000\n{ISOLATED}"), pull.clone(), 0, apart),
        (format!("{MAIN}{ISOLATED}"), json!({}), 0, None),
    ] {
        let grant = rules(&text).evaluate(&claims(changes), &[]).unwrap().grant;
        assert_eq!((i64::from(grant.rank), grant.isolated), (rank, isolated), "{text}");
    }
}

#[test]
fn a_rule_grants_only_where_all_of_it_fits() {
    // `None` where it grants, else a part of the reason.
    for (rule, changes, denied) in [
        (MAIN, json!({}), None),
        (MAIN, json!({"repository": "Acme/FLAKE"}), None),
        (MAIN, json!({"event_name": "workflow_dispatch"}), None),
        (MAIN, json!({"event_name": "schedule"}), None),
        (MAIN, json!({"event_name": "release"}), None),
        (MAIN, json!({"event_name": "merge_group"}), None),
        (MAIN, json!({"ref_protected": "false"}), None),
        (MAIN, json!({"check_run_id": null, "actor": null}), None),
        (MAIN, json!({"repository": "evil/flake"}), Some("no trust rule lets evil/flake push")),
        (MAIN, json!({"repository": "acme/flake2"}), Some("no trust rule")),
        (MAIN, json!({"repository": "acme/flak"}), Some("no trust rule")),
        (MAIN, json!({"iss": "https://example.org"}), Some("no trust rule")),
        (
            MAIN,
            json!({"ref": "refs/heads/Main"}),
            Some("ref refs/heads/main, and the token says refs/heads/Main"),
        ),
        (MAIN, json!({"ref": "refs/tags/main"}), Some("refs/tags/main")),
        (MAIN, json!({"ref": "refs/pull/1/merge", "event_name": "pull_request"}), Some("pull_request")),
        // These run with the ref of the branch that they would merge into, and with a stranger's code.
        (MAIN, json!({"event_name": "pull_request_target"}), Some("the token says pull_request_target")),
        (MAIN, json!({"event_name": "workflow_run"}), Some("the token says workflow_run")),
        (MAIN, json!({"event_name": "issue_comment"}), Some("the token says issue_comment")),
        (MAIN, json!({"repository_visibility": "private"}), Some("publish = true")),
        (MAIN, json!({"repository_visibility": "internal"}), Some("publish = true")),
        (MAIN, json!({"repository_visibility": null}), Some("publish = true")),
        (PUBLISH, json!({"repository_visibility": "private"}), None),
        (PROTECTED, json!({"ref": "refs/heads/any"}), None),
        (PROTECTED, json!({"ref_protected": true}), None),
        (PROTECTED, json!({"ref_protected": "false"}), Some("wants a protected ref")),
        (PROTECTED, json!({"ref_protected": "True"}), Some("wants a protected ref")),
        (PROTECTED, json!({"ref_protected": 1}), Some("wants a protected ref")),
        (PROTECTED, json!({"ref_protected": null}), Some("wants a protected ref")),
        (NUMBERED, json!({}), None),
        (NUMBERED, json!({"repository_id": "43"}), Some("another repository has this name now")),
        (PULLS, json!({"ref": "refs/pull/12/merge", "event_name": "pull_request"}), None),
        (
            PULLS,
            json!({"ref": "refs/pull/12/merge"}),
            Some("one of the events pull_request, and the token says push"),
        ),
        (BOTH, json!({"ref": "refs/heads/release-1"}), None),
        (BOTH, json!({"ref": "refs/heads/main"}), Some("refs/heads/release-*")),
        (BOTH, json!({"ref": "refs/heads/release-1", "ref_protected": "false"}), Some("protected")),
        (ISOLATED, json!({}), Some("the token says refs/heads/main")),
        (ISOLATED, json!({"event_name": "pull_request"}), Some("it is for pull requests")),
        (ISOLATED, json!({"ref": "refs/pull/1/merge"}), Some("the token says push")),
        ("", json!({}), Some("no trust rule lets acme/flake push to the cache main")),
    ] {
        let claims = claims(changes.clone());
        match (rules(rule).evaluate(&claims, &[]), denied) {
            (Ok(Decision { grant, .. }), None) => {
                assert_eq!(grant.cache.as_str(), "main");
                assert!(grant.permits(Permission::Push));
                assert_eq!(grant.identity, GrantedTo::Job(job(changes)));
            }
            (Err(denial), Some(part)) => {
                let denial = denial.to_string();
                assert!(denial.contains(part), "{rule}{changes}: no {part:?} in: {denial}");
            }
            (decided, _) => panic!("{rule}{changes}: {decided:?}"),
        }
    }
}

#[test]
fn the_closest_rule_is_named_and_others_are_not() {
    let text = format!(
        "[[cache.trust]]\nrepository = \"secret/project\"\nref = \"refs/heads/main\"\n{NUMBERED}{PROTECTED}{PULLS}"
    );
    let claims = claims(json!({"repository_id": "43", "ref": "refs/heads/dev", "ref_protected": "false"}));
    let denial = rules(&text).evaluate(&claims, &[]).unwrap_err().to_string();
    assert_eq!(
        denial,
        "trust rule 3 of the cache main is about acme/flake, but it wants a protected ref, and refs/heads/dev is not \
         protected"
    );
    let claims = self::claims(json!({"repository": "other/one"}));
    let denial = rules(&text).evaluate(&claims, &[]).unwrap_err().to_string();
    assert!(!denial.contains("secret") && !denial.contains("acme"), "{denial}");
    assert!(
        denial.contains("[[cache.trust]]\nrepository = \"other/one\"\nref = \"refs/heads/main\""),
        "{denial}"
    );
}

#[test]
fn claims_of_the_wrong_shape_are_refused() {
    for (name, value) in [
        ("repository", json!("acme")),
        ("repository", json!("acme/flake/x")),
        ("repository", json!("acme/fl ake")),
        ("repository", json!("acme/fläke")),
        ("repository", json!("acme/..")),
        ("repository_owner_id", json!(null)),
        ("repository_id", json!("9223372036854775808")),
        ("repository", json!(["acme/flake"])),
        ("repository_id", json!("42x")),
        ("repository_id", json!("")),
        ("repository_id", json!("-1")),
        ("repository_id", json!("+1")),
        ("repository_id", json!(1.5)),
        ("run_id", json!("99999999999999999999999")),
        ("ref", json!("main")),
        ("ref", json!("refs/heads/a\nb")),
        ("ref", json!(format!("refs/heads/{}", "a".repeat(2000)))),
        ("event_name", json!("")),
        ("event_name", json!("push\n")),
    ] {
        let raw = said(json!({ name: value })).to_string();
        assert!(TokenClaims::read(IssuerKind::GitHub, raw.as_bytes()).is_err(), "{raw}");
    }
}

#[test]
fn a_push_belongs_to_one_job_of_one_attempt() {
    let owner = |changes| GrantedTo::Job(job(changes)).owner();
    let job = owner(json!({}));
    assert_eq!(job, "job https://token.actions.githubusercontent.com 42 1000 1 5000");
    // The same job, whatever else its next token says.
    assert_eq!(job, owner(json!({"actor": "bert", "repository": "acme/renamed"})));
    for other in [
        json!({"repository_id": "43"}),
        json!({"run_id": "1001"}),
        json!({"run_attempt": "2"}),
        json!({"check_run_id": "5001"}),
        json!({"check_run_id": null}),
        json!({"iss": "https://example.org"}),
    ] {
        assert_ne!(job, owner(other.clone()), "{other}");
    }
}

#[test]
fn provenance_says_what_was_verified() {
    let identity = GrantedTo::Job(job(json!({})));
    let provenance: Value = serde_json::from_str(&identity.provenance()).unwrap();
    assert_eq!(provenance["kind"], "job");
    assert_eq!(provenance["iss"], "https://token.actions.githubusercontent.com");
    assert_eq!(provenance["repository"], "acme/flake");
    assert_eq!(provenance["run_id"], 1000);
    assert_eq!(serde_json::from_value::<GrantedTo>(provenance).unwrap(), identity);
}
