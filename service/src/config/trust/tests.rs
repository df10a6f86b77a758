//! What a rule may say, and what is said of one that it may not.

use std::path::Path;

use crate::config::{Config, ConfigError, Environment};

const ISSUERS: &str = "\
    [[issuer]]\nurl = \"https://token.actions.githubusercontent.com\"\n\
    [[issuer]]\nurl = \"https://token.actions.githubusercontent.com/acme\"\n\
    [[issuer]]\nurl = \"https://gitlab.example.org\"\nkind = \"gitlab\"\n\
    [[issuer]]\nurl = \"https://forge.example.org/api/actions\"\nkind = \"forgejo\"\n\
    [[issuer]]\nurl = \"https://ci.example.org\"\nkind = \"oidc\"\nalgorithms = [\"ES256\", \"EdDSA\"]\n";
const GITLAB: &str = "issuer = \"https://gitlab.example.org\"\n";
const FORGEJO: &str = "issuer = \"https://forge.example.org/api/actions\"\n";
const OIDC: &str = "issuer = \"https://ci.example.org\"\n";
const MAIN: &str = "repository = \"acme/flake\"\nref = \"refs/heads/main\"\n";

fn parse(rule: &str) -> Result<Config, ConfigError> {
    let text = format!(
        "public_url = \"https://cache.example.org\"\n{ISSUERS}[[cache]]\nname = \"main\"\n[[cache.trust]]\n{rule}"
    );
    Config::parse(Path::new("larder.toml"), &text, &Environment::from([("LARDER_DATA_DIR", "/data")]))
}

#[test]
fn a_rule_that_trusts_too_many_or_nobody_is_refused_with_the_reason() {
    let main = |more: &str| format!("{MAIN}{more}");
    let gitlab = |more: &str| format!("{GITLAB}{more}");
    let oidc = |more: &str| format!("{OIDC}{more}");
    for (rule, reason) in [
        // Neither a repository nor an owner.
        ("ref = \"refs/heads/main\"".to_owned(), "names no repository and no owner"),
        ("ref_protected = true\npermissions = [\"read\"]".to_owned(), "names no repository and no owner"),
        (gitlab("ref_protected = true"), "names no repository and no owner"),
        (oidc("publish = true"), "binds no subject"),
        (oidc("publish = true\nclaims.team = \"x\""), "binds no subject"),
        (oidc("publish = true\nclaims.sub = \"**\""), "too loosely"),
        (oidc("publish = true\nclaims.sub = \"acme*\""), "too loosely"),
        (oidc("publish = true\nclaims.sub = [\"acme\", \"acme-*\"]"), "too loosely"),
        (oidc("publish = true\nclaims.sub = \"repo:*\""), "too loosely"),
        (oidc("publish = true\nclaims.sub = \"repo:**\""), "too loosely"),
        (oidc("publish = true\nclaims.sub = \"repo:*/flake:ref:refs/heads/main\""), "too loosely"),
        (oidc("publish = true\nclaims.sub = \"repo://*\""), "too loosely"),
        (oidc("publish = true\nclaims.sub = \"system:serviceaccount:*\""), "too loosely"),
        // Every branch.
        ("repository = \"acme/flake\"".to_owned(), "lets every branch of acme/flake push"),
        ("repository_owner = \"acme\"".to_owned(), "lets every branch of acme push"),
        ("repository = \"acme/flake\"\npermissions = [\"pin\"]".to_owned(), "every branch"),
        ("repository = \"acme/flake\"\npermissions = [\"admin\"]".to_owned(), "every branch"),
        ("repository = \"acme/flake\"\nenvironment = \"prod\"".to_owned(), "every branch"),
        (gitlab("repository = \"a/b/c\""), "lets every branch of a/b/c push"),
        // A name that whoever pushes a branch can choose.
        ("repository = \"acme/flake\"\nworkflow = \"CI\"".to_owned(), "restricted by workflow = CI alone"),
        (
            "repository = \"acme/flake\"\nworkflow = \"CI\"\npermissions = [\"read\"]".to_owned(),
            "restricted by workflow = CI alone",
        ),
        ("repository = \"acme/flake\"\nworkflow = \"CI\"\nisolate = true".to_owned(), "workflow = CI alone"),
        // A workflow of any branch.
        (main("job_workflow_ref = \"acme/ci/.github/workflows/x.yml@*\""), "has a * after the @"),
        (main("job_workflow_ref = \"acme/ci/.github/workflows/x.yml@refs/heads/**\""), "has a * after the @"),
        (main("job_workflow_ref = \"acme/ci/**\""), "can never match: job_workflow_ref is a file and a ref"),
        // Permissions.
        (
            main("permissions = [\"write\"]"),
            "unknown variant `write`, expected one of `push`, `pin`, `read`, `admin`",
        ),
        (main("permissions = []"), "grants nothing"),
        (
            "repository = \"acme/flake\"\nisolate = true\npermissions = [\"push\", \"admin\"]".to_owned(),
            "Leave `permissions` out",
        ),
        // What can never match.
        (main("events = []"), "allows no event"),
        (main("environment = []"), "environment is an empty list"),
        ("repository = []\nref_protected = true".to_owned(), "repository is an empty list"),
        ("repository = \"acme/flake\"\nref = []".to_owned(), "ref is an empty list"),
        (main("repository_id = 0"), "no repository_id is 0"),
        (main("repository_owner = \"other\""), "acme/flake is not a repository of other"),
        (main("runner_environment = \"gitlab-hosted\""), "\"github-hosted\" or \"self-hosted\""),
        (
            "repository = \"acme/flake\"\nref = \"refs/pull/*/merge\"".to_owned(),
            "only events of pull requests run on refs/pull",
        ),
        (
            "repository = \"acme/flake\"\nref = \"refs/pull/*/merge\"\nref_protected = true".to_owned(),
            "never protected",
        ),
        ("repository = \"acme/flake\"\nisolate = true\nref_protected = true".to_owned(), "can never match"),
        (main("isolate = true"), "can never match: it isolates pull requests"),
        (
            "repository = \"acme/flake\"\nisolate = true\nevents = [\"push\"]".to_owned(),
            "can never match: it isolates pull requests, and no job runs for one at push",
        ),
        (
            "repository = \"acme/flake\"\nisolate = true\nevents = [\"pull_request_target\", \"schedule\"]"
                .to_owned(),
            "no job runs for one at pull_request_target, schedule",
        ),
        (
            "repository = \"acme/flake\"\nref = \"refs/pull/**\"\nevents = [\"pull_request_target\"]"
                .to_owned(),
            "only events of pull requests run on refs/pull",
        ),
        (gitlab("repository = \"a/b\"\nisolate = true"), "kind gitlab do not say which"),
        (format!("{FORGEJO}repository = \"a/b\"\nisolate = true"), "kind forgejo do not say which"),
        (gitlab("repository = \"a/b\"\nref_protected = true\nworkflow = \"x\""), "do not say workflow"),
        (format!("{FORGEJO}{MAIN}environment = \"prod\""), "do not say environment"),
        (oidc("claims.sub = \"acme\""), "can never match: the issuer does not say whether"),
        (oidc("publish = true\nclaims.sub = []"), "claims.sub is an empty list"),
        // Claims by name.
        (main("claims.iss = \"x\""), "wants the claim iss"),
        (main("claims.ref = \"refs/heads/main\""), "Write it as ref = …"),
        (main("claims.event_name = \"push\""), "Write it as events = …"),
        (main("claims.sub = \"repo:acme/flake:*\""), "wants the claim sub"),
        (gitlab("claims.project_path = \"a/b\""), "Write it as repository = …"),
        (
            gitlab("repository = \"a/b\"\nref_protected = true\nclaims.pipeline_source = \"web\""),
            "Write it as events",
        ),
        (
            oidc("publish = true\nrepository = \"a/b\"\nclaims.sub = \"x\""),
            "says repository, and its issuer is of kind",
        ),
        (
            oidc("publish = true\nisolate = true\nclaims.sub = \"x\""),
            "says isolate, and its issuer is of kind",
        ),
        (main("claims.actor = \"\""), "can match nothing"),
        (main("rank = -1000"), "-1000 is not a rank"),
        (main("issuer = \"https://nowhere.example.org\""), "which is not configured"),
    ] {
        let refusal = parse(&rule).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{rule:?} is refused without {reason:?}:\n{refusal}");
    }
}

#[test]
fn a_rule_is_a_sentence() {
    for (rule, sentence) in [
        (MAIN.to_owned(), "acme/flake on refs/heads/main, at merge_group, push, release, schedule, workflow_dispatch"),
        (
            "repository_owner = [\"acme\", \"acme-labs\"]\nref_protected = true\npermissions = [\"push\", \"pin\"]\nrank = 20"
                .to_owned(),
            "repositories of acme or acme-labs, protected refs alone, at merge_group, push, release, schedule, \
             workflow_dispatch, to push, pin alone, with rank 20",
        ),
        (
            "repository = \"acme/nix-*\"\nref = [\"refs/heads/main\", \"refs/tags/v*\"]\nenvironment = \"prod\"\n\
             workflow = \"Release **\"\nrunner_environment = \"github-hosted\"\nevents = [\"push\"]\n\
             job_workflow_ref = \"acme/ci/.github/workflows/*@refs/heads/main\"\nclaims.actor = \"anna\""
                .to_owned(),
            "acme/nix-* on refs/heads/main or refs/tags/v*, at push, with environment prod, with workflow Release **, \
             with runner_environment github-hosted, with job_workflow_ref \
             acme/ci/.github/workflows/*@refs/heads/main, with actor anna",
        ),
        (
            "repository_id = 42\nisolate = true\nevents = [\"push\", \"pull_request_review\"]".to_owned(),
            "any repository (only if its number is 42), at pull_request_review, push, into a cache of each pull \
             request's own",
        ),
        (
            "repository_id = [42, 43]\nisolate = true".to_owned(),
            "any repository (only if its number is 42 or 43), at pull_request, into a cache of each pull request's own",
        ),
        (
            format!("{GITLAB}repository = \"group/sub/project\"\nref_protected = true\nclaims.user_login = \"anna\""),
            "group/sub/project, protected refs alone, at push, schedule, web, with user_login anna, with rank 10",
        ),
        (
            format!("{OIDC}publish = true\nclaims.sub = \"organization:acme:*\""),
            "whoever, with sub organization:acme:*, even though it may not be public",
        ),
        (
            format!("{OIDC}publish = true\nclaims.sub = [\"repo:acme/**\", \"system:serviceaccount:ci:*\"]"),
            "whoever, with sub repo:acme/** or system:serviceaccount:ci:*, even though it may not be public",
        ),
        (
            "repository_owner = \"acme\"\npermissions = [\"read\"]\nevents = [\"pull_request\", \"push\"]".to_owned(),
            "repositories of acme, at pull_request, push, to read alone",
        ),
    ] {
        let config = parse(&rule).unwrap();
        let shown: Vec<String> = config.caches[0].trust.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [sentence], "{rule}");
    }
}

#[test]
fn a_rule_without_an_issuer_means_githubs() {
    let issuer = |issuers: &str| {
        let text = format!(
            "public_url = \"https://c.org\"\n{issuers}[[cache]]\nname = \"main\"\n[[cache.trust]]\n{MAIN}"
        );
        let environment = Environment::from([("LARDER_DATA_DIR", "/data")]);
        let config = Config::parse(Path::new("f"), &text, &environment).map_err(|error| error.to_string())?;
        Ok::<_, String>(config.caches[0].trust.iter().next().unwrap().issuer.to_string())
    };
    let own = "https://token.actions.githubusercontent.com";
    assert_eq!(issuer("").unwrap(), own);
    assert_eq!(issuer(ISSUERS).unwrap(), own);
    let enterprise = "[[issuer]]\nurl = \"https://github.example.org/_services/token\"\n";
    let gitlab = "[[issuer]]\nurl = \"https://gitlab.example.org\"\nkind = \"gitlab\"\n";
    assert_eq!(
        issuer(&format!("{gitlab}{enterprise}")).unwrap(),
        "https://github.example.org/_services/token"
    );
    assert!(issuer(gitlab).unwrap_err().contains("means GitHub's, and that is not configured"));
    let other = enterprise.replace("github.", "other.");
    assert!(issuer(&format!("{enterprise}{other}")).unwrap_err().contains("several issuers"));
}

#[test]
fn an_issuer_that_cannot_be_is_refused() {
    for (text, reason) in [
        (
            "kind = \"gitea\"",
            "unknown variant `gitea`, expected one of `github`, `gitlab`, `forgejo`, `oidc`",
        ),
        ("algorithms = []", "issuer.algorithms: is empty"),
        ("algorithms = [\"HS256\"]", "unknown variant `HS256`, expected one of `RS256`, `ES256`, `EdDSA`"),
        ("algorithms = [\"none\"]", "unknown variant `none`"),
        ("api_url = \"http://github.example.org\"", "issuer.api_url: http://github.example.org/ will not do"),
        ("kind = \"gitlab\"\napi_url = \"https://gitlab.example.org\"", "only GitHub's API is spoken"),
    ] {
        let text = format!("[[issuer]]\nurl = \"https://a.example.org\"\n{text}");
        let environment = Environment::from([("LARDER_DATA_DIR", "/data")]);
        let refusal = Config::parse(Path::new("f"), &text, &environment).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{text:?} is refused without {reason:?}:\n{refusal}");
    }
}
