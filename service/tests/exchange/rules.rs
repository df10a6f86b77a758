//! What each part of a rule grants and refuses, as a job hears it.

use http::StatusCode;
use larder_protocol::api::Permission;
use serde_json::{Value, json};

use crate::world::World;

/// The rules of one cache, and tokens that differ from a push to main of acme/flake by a few claims: each with the
/// permissions and the rank that it is granted, or with a part of what it is told.
type Case = (Value, Result<(&'static [&'static str], i64), &'static str>);

const PUSH: &[&str] = &["push", "read"];

async fn check(rules: &str, cases: &[Case]) {
    let world = World::trusting(rules).await;
    for (changes, expected) in cases {
        let (status, answer) = world.exchange(&world.changed(changes)).await;
        match expected {
            Ok((permissions, rank)) => {
                assert_eq!(status, StatusCode::OK, "{rules}{changes}: {answer}");
                assert_eq!(answer["permissions"], json!(permissions), "{rules}{changes}");
                let token = answer["token"].as_str().unwrap();
                let cache = answer["cache"]["name"].as_str().unwrap();
                let permission = serde_json::from_value(answer["permissions"][0].clone()).unwrap();
                let grant = world.may(token, cache, permission).await.unwrap();
                assert_eq!(i64::from(grant.rank), *rank, "{rules}{changes}");
                for permission in [Permission::Push, Permission::Pin, Permission::Read, Permission::Admin] {
                    let granted = permissions.contains(&permission.to_string().as_str());
                    let may = world.may(token, cache, permission).await;
                    assert_eq!(may.is_ok(), granted, "{rules}{changes}: {permission}");
                }
            }
            Err(part) => {
                assert_eq!(status, StatusCode::FORBIDDEN, "{rules}{changes}: {answer}");
                let message = answer["message"].as_str().unwrap();
                assert!(message.contains(part), "{rules}{changes}: no {part:?} in: {message}");
            }
        }
    }
}

fn rule(text: &str) -> String {
    format!("[[cache.trust]]\n{text}\n")
}

#[tokio::test]
async fn repositories_and_owners_without_case_and_numbers() {
    check(
        &rule("repository = [\"Acme/Flake\", \"acme/nix-*\"]\nref = \"refs/heads/main\""),
        &[
            (json!({}), Ok((PUSH, 0))),
            (json!({"repository": "ACME/flake"}), Ok((PUSH, 0))),
            (json!({"repository": "acme/nix-tools", "repository_id": "50"}), Ok((PUSH, 0))),
            (json!({"repository": "acme/nix"}), Err("no trust rule lets acme/nix push")),
            (json!({"repository": "acme2/flake"}), Err("no trust rule")),
            (json!({"repository": "evil/nix-tools"}), Err("no trust rule")),
        ],
    )
    .await;
    check(
        &rule("repository_owner = \"Acme\"\nref = \"refs/heads/main\""),
        &[
            (json!({}), Ok((PUSH, 0))),
            (json!({"repository": "acme/other", "repository_id": "51"}), Ok((PUSH, 0))),
            (json!({"repository": "evil/flake", "repository_owner": "evil"}), Err("no trust rule")),
            (json!({"repository": "evil/flake"}), Err("no trust rule")),
            (json!({"repository_owner": "evil"}), Err("no trust rule")),
        ],
    )
    .await;
    check(
        &rule("repository_id = [42, 43]\nref = \"refs/heads/main\""),
        &[
            (json!({}), Ok((PUSH, 0))),
            (json!({"repository": "renamed/since", "repository_owner": "renamed"}), Ok((PUSH, 0))),
            (json!({"repository_id": "44"}), Err("no trust rule")),
        ],
    )
    .await;
    check(
        &rule("repository_owner_id = [7, 8]\nref = \"refs/heads/main\""),
        &[
            (
                json!({"repository": "renamed/other", "repository_owner": "renamed", "repository_id": "1"}),
                Ok((PUSH, 0)),
            ),
            (json!({"repository_owner_id": "9"}), Err("no trust rule")),
        ],
    )
    .await;
    check(
        &rule("repository = \"acme/flake\"\nrepository_owner_id = 7\nref = \"refs/heads/main\""),
        &[
            (json!({}), Ok((PUSH, 0))),
            (
                json!({"repository_owner_id": "8"}),
                Err("it wants another repository_owner_id than the token's, 8"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn refs_events_and_where_the_job_runs() {
    check(
        &rule("repository = \"acme/flake\"\nref = [\"refs/heads/main\", \"refs/tags/v*\"]"),
        &[
            (json!({"ref": "refs/tags/v1"}), Ok((PUSH, 0))),
            (json!({"ref": "refs/tags/v1/x"}), Err("refs/heads/main or refs/tags/v*")),
            (json!({"ref": "refs/heads/MAIN"}), Err("and the token says refs/heads/MAIN")),
            (json!({"event_name": "workflow_dispatch"}), Ok((PUSH, 0))),
            (json!({"event_name": "schedule"}), Ok((PUSH, 0))),
            (json!({"event_name": "release"}), Ok((PUSH, 0))),
            (json!({"event_name": "merge_group"}), Ok((PUSH, 0))),
            // A merged pull request runs on the branch that it was merged into.
            (json!({"event_name": "pull_request"}), Err("and the token says pull_request")),
            (json!({"event_name": "pull_request_target"}), Err("and the token says pull_request_target")),
            (json!({"event_name": "workflow_run"}), Err("and the token says workflow_run")),
            (json!({"event_name": "issue_comment"}), Err("and the token says issue_comment")),
        ],
    )
    .await;
    check(
        &rule("repository = \"acme/flake\"\nref_protected = true\nevents = [\"push\", \"workflow_run\"]"),
        &[
            (json!({"event_name": "workflow_run"}), Ok((PUSH, 10))),
            (json!({"event_name": "schedule"}), Err("one of the events push, workflow_run")),
            (json!({"ref_protected": "false"}), Err("is not protected")),
            (json!({"ref_protected": null}), Err("is not protected")),
        ],
    )
    .await;
    check(
        &rule(
            "repository = \"acme/flake\"\nref = \"refs/heads/main\"\nenvironment = \"prod/*\"\nworkflow = \"CI\"\n\
             runner_environment = \"github-hosted\"\nclaims.actor = [\"anna\", \"bert\"]\n\
             job_workflow_ref = \"acme/ci/.github/workflows/*@refs/heads/main\"",
        ),
        &[
            (
                json!({"environment": "prod/eu", "job_workflow_ref": "acme/ci/.github/workflows/b.yml@refs/heads/main"}),
                Ok((PUSH, 0)),
            ),
            (json!({"environment": "staging"}), Err("it wants environment prod/*, and the token says \"staging\"")),
            (json!({"environment": "prod/eu/1"}), Err("it wants environment")),
            (json!({}), Err("it wants environment prod/*, and the token says none")),
            (json!({"workflow": "Release"}), Err("it wants workflow CI, and the token says \"Release\"")),
            (json!({"runner_environment": "self-hosted"}), Err("runner_environment github-hosted")),
            (json!({"actor": "mallory"}), Err("it wants actor anna or bert, and the token says \"mallory\"")),
            (json!({"job_workflow_ref": "acme/ci/.github/workflows/b.yml@refs/heads/x"}), Err("job_workflow_ref")),
            (
                json!({"job_workflow_ref": "acme/ci/.github/workflows/b.yml@refs/heads/x@refs/heads/main"}),
                Err("it wants job_workflow_ref"),
            ),
            // What a stranger wrote stays on its line, and is cut.
            (json!({"workflow": "x\n::error::y"}), Err("the token says \"x\\n::error::y\"")),
        ],
    )
    .await;
}

#[tokio::test]
async fn permissions_ranks_and_several_rules() {
    let reads =
        rule("repository_owner = \"acme\"\npermissions = [\"read\"]\nevents = [\"push\", \"pull_request\"]");
    let pushes =
        rule("repository = \"acme/flake\"\nref = \"refs/heads/main\"\npermissions = [\"push\"]\nrank = -5");
    let admins = rule(
        "repository = \"acme/flake\"\nref_protected = true\nenvironment = \"prod\"\npermissions = [\"admin\", \"pin\"]",
    );
    let rules = format!("{reads}{pushes}{admins}");
    for rules in [rules.clone(), format!("{admins}{pushes}{reads}")] {
        check(
            &rules,
            &[
                // All that fit, and the rank of those that let push, whatever the order.
                (json!({}), Ok((PUSH, -5))),
                (json!({"environment": "prod"}), Ok((&["push", "pin", "read", "admin"], -5))),
                (json!({"ref": "refs/heads/dev"}), Ok((&["read"], 0))),
                (json!({"ref": "refs/heads/dev", "environment": "prod"}), Ok((&["pin", "read", "admin"], 0))),
                (
                    json!({"ref": "refs/pull/1/merge", "event_name": "pull_request", "ref_protected": "false"}),
                    Ok((&["read"], 0)),
                ),
                (json!({"repository": "acme/other", "repository_id": "9"}), Ok((&["read"], 0))),
                (json!({"event_name": "issue_comment"}), Err("and the token says issue_comment")),
            ],
        )
        .await;
    }
    // One that isolates keeps its pull requests apart, whatever else would fit.
    let isolated = rule("repository = \"acme/flake\"\nisolate = true");
    let named =
        rule("repository = \"acme/flake\"\nref = \"refs/pull/**\"\nevents = [\"pull_request\"]\nrank = 9");
    let pull = json!({"ref": "refs/pull/1/merge", "event_name": "pull_request", "ref_protected": "false"});
    check(&named, &[(pull.clone(), Ok((PUSH, 9)))]).await;
    let all = format!("{named}{isolated}{reads}");
    check(&all, &[(pull.clone(), Ok((PUSH, 0)))]).await;
    let world = World::trusting(&all).await;
    let (_, answer) = world.exchange(&world.changed(&pull)).await;
    assert_eq!(answer["cache"]["name"], "main~42-pr-1");
}

#[tokio::test]
async fn what_is_not_public_stays_out_of_a_public_cache() {
    let main = rule("repository = \"acme/flake\"\nref = \"refs/heads/main\"");
    check(
        &main,
        &[
            (json!({}), Ok((PUSH, 0))),
            (
                json!({"repository_visibility": "private"}),
                Err("the repository is not public while everybody can"),
            ),
            (json!({"repository_visibility": "internal"}), Err("must say publish = true")),
            (json!({"repository_visibility": "Public"}), Err("must say publish = true")),
            (
                json!({"repository_visibility": null}),
                Err("the token does not say that the repository is public"),
            ),
        ],
    )
    .await;
    let private = json!({"repository_visibility": "private"});
    check(&format!("{main}publish = true\n"), &[(private.clone(), Ok((PUSH, 0)))]).await;
    // Reading publishes nothing.
    check(&format!("{main}permissions = [\"read\"]\n"), &[(private, Ok((&["read"], 0)))]).await;
}

#[tokio::test]
async fn a_denial_names_the_closest_rule_and_nothing_of_other_repositories() {
    let secret =
        rule("repository = [\"secret/project\", \"acme/hidden\"]\nref = \"refs/heads/secret-branch\"");
    let far = rule("repository = \"acme/flake\"\nref = \"refs/heads/other\"\nenvironment = \"prod\"");
    let near = rule("repository = [\"acme/flake\", \"acme/hidden\"]\nref = \"refs/heads/main\"");
    let rules = format!("{secret}{far}{near}");
    let world = World::trusting(&rules).await;
    let (_, answer) = world.exchange(&world.changed(&json!({"ref": "refs/heads/dev"}))).await;
    assert_eq!(
        answer["message"],
        "trust rule 3 of the cache main is about acme/flake, but it wants ref refs/heads/main, and the token says \
         refs/heads/dev"
    );
    let (_, answer) = world.exchange(&world.changed(&json!({"repository": "evil/x"}))).await;
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("no trust rule lets evil/x push"), "{message}");
    assert!(
        !message.contains("secret") && !message.contains("acme") && !message.contains("hidden"),
        "{message}"
    );
    // What it says to do is a rule that would do.
    let remedy = message.split_once("\n\n").unwrap().1.to_owned();
    check(
        &format!("{remedy}\n").replace(&world.issuer.url, "ISSUER"),
        &[(json!({"repository": "evil/x", "repository_owner": "evil"}), Ok((PUSH, 0)))],
    )
    .await;
}
