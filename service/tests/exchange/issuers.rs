//! Issuers of all kinds, side by side.

use std::sync::Arc;

use http::StatusCode;
use larder_protocol::api::Permission;
use larder_service::trust::GrantedTo;
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, Key, Mood, token},
    world::{AUDIENCE, World},
};

const MAIN: &str =
    "[[cache]]\nname = \"main\"\n[[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n";

async fn identity(world: &World, id_token: &str) -> GrantedTo {
    let (status, answer) = world.exchange(id_token).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let grant = world.may(answer["token"].as_str().unwrap(), "main", Permission::Push).await;
    grant.unwrap().identity
}

/// Signed as if by this algorithm.
fn forged(claims: &Value, key: &Key, algorithm: &str, kid: &str) -> String {
    token(&json!({"alg": algorithm, "kid": kid}), claims, |message| key.sign(message))
}

#[tokio::test]
async fn algorithms_are_pinned_for_each_issuer() {
    let keys = || [Key::new("key"), Key::p256("key"), Key::ed25519("key")];
    for key in keys() {
        let pinned = key.algorithm();
        let world =
            World::with(key, &format!("[[issuer]]\nurl = \"ISSUER\"\nalgorithms = [\"{pinned}\"]\n{MAIN}"))
                .await;
        world.session().await;
        let claims = world.claims();
        let jwk = world.key.jwk();
        // Every other key under the same name, every other algorithm with the right key, and the public key as a
        // secret.
        for other in keys() {
            for algorithm in ["RS256", "ES256", "EdDSA", "none", "HS256", "PS256", "ES384"] {
                let status = world.exchange(&forged(&claims, &other, algorithm, "key")).await.0;
                assert_eq!(
                    status,
                    StatusCode::UNAUTHORIZED,
                    "{pinned}: {algorithm} by {}",
                    other.algorithm()
                );
                if algorithm != pinned {
                    let status = world.exchange(&forged(&claims, &world.key, algorithm, "key")).await.0;
                    assert_eq!(status, StatusCode::UNAUTHORIZED, "{pinned}: {algorithm}");
                }
            }
        }
        for secret in [world.key.public_bytes(), jwk.to_string().into_bytes()] {
            for algorithm in ["HS256", pinned] {
                let hmac = token(&json!({"alg": algorithm, "kid": "key"}), &claims, |message| {
                    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
                    aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
                });
                assert_eq!(world.exchange(&hmac).await.0, StatusCode::UNAUTHORIZED, "{pinned}: {algorithm}");
            }
        }
        // ECDSA's signature of zeros, which some have taken for good, and none at all.
        for zeros in [0, 64, 256] {
            let token = token(&json!({"alg": pinned, "kid": "key"}), &claims, |_| vec![0; zeros]);
            world.refuses(&token, StatusCode::UNAUTHORIZED, "signature does not hold").await;
        }
        // A key that the token brings along, in each way that RFC 7515 knows, and names that are no names.
        let attacker = keys().into_iter().find(|key| key.algorithm() == pinned).unwrap();
        for (name, value) in [
            ("jwk", attacker.jwk()),
            ("jku", json!(format!("{}/keys", world.issuer.url))),
            ("x5u", json!("http://127.0.0.1:1/cert")),
            ("x5c", json!(["AAAA"])),
        ] {
            let mut header = world.header();
            header[name] = value;
            let token = token(&header, &claims, |message| attacker.sign(message));
            world.refuses(&token, StatusCode::UNAUTHORIZED, "signature does not hold").await;
        }
        for kid in ["", "KEY", "../key", "key\u{0}", "' OR 1=1 --", "http://127.0.0.1:1/"] {
            let token = forged(&claims, &world.key, pinned, kid);
            world.refuses(&token, StatusCode::UNAUTHORIZED, "a key that its issuer does not publish").await;
        }
        for kid in [json!(["key"]), json!({"key": 1}), json!(7), Value::Null] {
            let header = json!({"alg": pinned, "kid": kid});
            let token = token(&header, &claims, |message| world.key.sign(message));
            assert_eq!(world.exchange(&token).await.0, StatusCode::UNAUTHORIZED, "{kid}");
        }
        assert_eq!(world.issuer.asked(), 1);
    }
}

#[tokio::test]
async fn a_key_of_another_algorithm_under_the_same_name_is_another_key() {
    let config = format!("[[issuer]]\nurl = \"ISSUER\"\nalgorithms = [\"RS256\", \"EdDSA\"]\n{MAIN}");
    let world = World::with(Key::new("key"), &config).await;
    let (edwards, elliptic) = (Key::ed25519("key"), Key::p256("key"));
    world.issuer.keys.lock().unwrap().extend([edwards.jwk(), elliptic.jwk()]);
    world.session().await;
    assert_eq!(world.exchange(&forged(&world.claims(), &edwards, "EdDSA", "key")).await.0, StatusCode::OK);
    let reason = "only RS256 or EdDSA is taken from its issuer";
    world
        .refuses(&forged(&world.claims(), &elliptic, "ES256", "key"), StatusCode::UNAUTHORIZED, reason)
        .await;
}

#[tokio::test]
async fn a_token_is_believed_of_its_own_issuer_alone() {
    let (key, enterprise_key) = (Key::new("key"), Key::new("key"));
    let enterprise = Issuer::start(vec![enterprise_key.jwk()]).await;
    // An enterprise's own is another issuer than the one that it begins with.
    let config = format!(
        "[[issuer]]\nurl = \"ISSUER\"\n[[issuer]]\nurl = \"{}\"\n[[cache]]\nname = \"main\"\n[[cache.trust]]\n\
         issuer = \"ISSUER\"\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n",
        enterprise.url
    );
    let world = World::with(key, &config).await;
    world.session().await;
    let mut claims = world.claims();
    claims["iss"] = json!(enterprise.url);
    let by_enterprise = |claims: &Value| forged(claims, &enterprise_key, "RS256", "key");
    // The same repository's name at another issuer is another repository.
    world.refuses(&by_enterprise(&claims), StatusCode::FORBIDDEN, "no trust rule lets acme/flake push").await;
    world.refuses(&world.sign(&claims), StatusCode::UNAUTHORIZED, "signature does not hold").await;
    world.refuses(&by_enterprise(&world.claims()), StatusCode::UNAUTHORIZED, "signature does not hold").await;
    for iss in
        [format!("{}/acme", world.issuer.url), format!("{}/", world.issuer.url), "https://evil".to_owned()]
    {
        let mut claims = world.claims();
        claims["iss"] = json!(iss);
        world.refuses(&world.sign(&claims), StatusCode::UNAUTHORIZED, "does not trust").await;
    }
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_delays_nobody_else() {
    let key = Key::new("key");
    let slow = Issuer::start(vec![key.jwk()]).await;
    let config = format!(
        "[[issuer]]\nurl = \"ISSUER\"\n[[issuer]]\nurl = \"{}\"\n[[cache]]\nname = \"main\"\n[[cache.trust]]\n\
         issuer = \"ISSUER\"\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n",
        slow.url
    );
    // The service starts while it does not answer.
    let closed = slow.gate.acquire().await.unwrap();
    let world = Arc::new(World::with(key.clone(), &config).await);
    let mut claims = world.claims();
    claims["iss"] = json!(slow.url);
    let waiting = tokio::spawn({
        let (world, token) = (world.clone(), world.sign(&claims));
        async move { world.exchange(&token).await.0 }
    });
    slow.arrived.acquire().await.unwrap().forget();
    // Its request is under way, and everybody else's are answered.
    for _ in 0..3 {
        world.session().await;
    }
    assert!(!waiting.is_finished());
    slow.is(Mood::Failing);
    drop(closed);
    assert_eq!(waiting.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
}

/// As in GitLab's documentation of ID tokens.
fn gitlab_claims(world: &World) -> Value {
    let base = world.claims();
    json!({
        "iss": base["iss"], "aud": AUDIENCE, "jti": base["jti"], "iat": base["iat"], "nbf": base["nbf"],
        // GitLab's tokens live as long as the job may take.
        "exp": world.now() + 7200,
        "namespace_id": "72", "namespace_path": "my-group/sub", "project_id": "20",
        "project_path": "my-group/sub/my-project", "project_visibility": "public", "user_id": "1",
        "user_login": "sample-user", "user_email": "sample-user@example.com", "user_access_level": "developer",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch",
        "ref_path": "refs/heads/main", "ref_protected": "true", "runner_id": 1, "runner_environment": "gitlab-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "public",
        "ci_config_ref_uri": "gitlab.example.org/my-group/sub/my-project//.gitlab-ci.yml@refs/heads/main",
        "sub": "project_path:my-group/sub/my-project:ref_type:branch:ref:main",
    })
}

#[tokio::test]
async fn a_gitlab_job_is_understood_in_githubs_words() {
    let config = "[[issuer]]\nurl = \"ISSUER\"\nkind = \"gitlab\"\n[[cache]]\nname = \"main\"\n[[cache.trust]]\n\
                  issuer = \"ISSUER\"\nrepository = \"my-group/**\"\nref_protected = true\n\
                  claims.user_access_level = [\"maintainer\", \"developer\"]\n";
    let world = World::with(Key::new("key"), config).await;
    let GrantedTo::Job(job) = identity(&world, &world.sign(&gitlab_claims(&world))).await else { panic!() };
    assert_eq!(job.repository.as_str(), "my-group/sub/my-project");
    assert_eq!((job.repository_id, job.repository_owner_id), (20, Some(72)));
    assert_eq!((job.git_ref.as_str(), job.event_name.as_str()), ("refs/heads/main", "push"));
    assert_eq!((job.run_id, job.run_attempt, job.check_run_id), (574, 1, Some(302)));
    assert_eq!(job.actor.as_deref(), Some("sample-user"));
    for (claim, value, status, reason) in [
        ("pipeline_source", json!("merge_request_event"), 403, "the token says merge_request_event"),
        ("ref_protected", json!("false"), 403, "is not protected"),
        ("project_path", json!("other/my-project"), 403, "no trust rule lets other/my-project push"),
        ("project_visibility", json!("private"), 403, "publish = true"),
        ("user_access_level", json!("guest"), 403, "the token says \"guest\""),
        ("namespace_id", json!("73"), 403, "is not what it was when it was first trusted"),
        ("ref_path", Value::Null, 401, "does not say what it must"),
        ("project_id", json!("x"), 401, "number"),
        ("exp", json!(world.now() + 24 * 3600 + 1), 401, "at most 86400 are taken"),
    ] {
        let mut claims = gitlab_claims(&world);
        claims[claim] = value;
        world.refuses(&world.sign(&claims), StatusCode::from_u16(status).unwrap(), reason).await;
    }
    // GitHub's words are not GitLab's.
    world.refuses(&world.id_token(), StatusCode::UNAUTHORIZED, "missing field `project_path`").await;
}

#[tokio::test]
async fn a_forgejo_job_says_a_part_of_what_githubs_says() {
    let config = "[[issuer]]\nurl = \"ISSUER\"\nkind = \"forgejo\"\n[[cache]]\nname = \"main\"\n[[cache.trust]]\n\
                  issuer = \"ISSUER\"\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\npublish = true\n";
    let world = World::with(Key::new("key"), config).await;
    let changes = json!({
        "repository_visibility": null, "check_run_id": null, "runner_environment": null, "environment": null,
        "workflow": "ci.yml", "workflow_ref": "acme/flake/.forgejo/workflows/ci.yml@refs/heads/main",
    });
    let GrantedTo::Job(job) = identity(&world, &world.changed(&changes)).await else { panic!() };
    assert_eq!((job.repository.as_str(), job.repository_id, job.check_run_id), ("acme/flake", 42, None));
    // Before Forgejo put numbers into its tokens, a name was all that there was.
    for number in ["repository_id", "repository_owner_id"] {
        let mut changes = changes.clone();
        changes[number] = Value::Null;
        world.refuses(&world.changed(&changes), StatusCode::UNAUTHORIZED, "missing field").await;
    }
}

#[tokio::test]
async fn of_any_other_issuer_the_subject_is_bound() {
    let config = "[[issuer]]\nurl = \"ISSUER\"\nkind = \"oidc\"\nalgorithms = [\"ES256\"]\n[[cache]]\n\
                  name = \"main\"\n[[cache.trust]]\nissuer = \"ISSUER\"\npublish = true\nrank = 3\n\
                  claims.sub = [\"organization:acme:pipeline:nix\", \"organization:acme:pipeline:hosts:*\"]\n\
                  claims.build_branch = \"main\"\n";
    let world = World::with(Key::p256("key"), config).await;
    let said = |sub: Value, branch: &str| {
        let base = world.claims();
        let claims = json!({
            "iss": base["iss"], "aud": AUDIENCE, "jti": base["jti"], "iat": base["iat"], "exp": base["exp"],
            "sub": sub, "build_branch": branch, "build_number": 7,
        });
        world.sign(&claims)
    };
    let subject = "organization:acme:pipeline:nix";
    let granted = identity(&world, &said(json!(subject), "main")).await;
    let expected = GrantedTo::Subject { issuer: world.issuer.url.clone(), subject: subject.parse().unwrap() };
    assert_eq!(granted, expected);
    assert_eq!(granted.owner(), format!("subject {} {subject}", world.issuer.url));
    let provenance: Value = serde_json::from_str(&granted.provenance()).unwrap();
    assert_eq!(provenance, json!({"kind": "subject", "iss": world.issuer.url, "sub": subject}));
    identity(&world, &said(json!("organization:acme:pipeline:hosts:a"), "main")).await;

    let forbidden = StatusCode::FORBIDDEN;
    world
        .refuses(
            &said(json!(subject), "dev"),
            forbidden,
            "wants build_branch main, and the token says \"dev\"",
        )
        .await;
    let stranger = said(json!("organization:evil"), "main");
    world.refuses(&stranger, forbidden, "no trust rule lets the subject \"organization:evil\" push").await;
    let longer = said(json!(format!("{subject}-evil")), "main");
    world.refuses(&longer, forbidden, "no trust rule").await;
    for sub in [
        json!(""),
        json!("a\nb"),
        json!(["organization:acme:pipeline:nix"]),
        json!(7),
        json!("x".repeat(1025)),
    ] {
        world.refuses(&said(sub, "main"), StatusCode::UNAUTHORIZED, "").await;
    }
}
