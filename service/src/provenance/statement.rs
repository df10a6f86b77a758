//! The statement that a cache signs: who pushed a path, and what that job reported.

use larder_protocol::provenance::{
    PUSH_PREDICATE, Provenance, PushedBy, PushingJob, SLSA_PREDICATE, STATEMENT_TYPE, Statement, Subject,
};
use serde_json::{Value, json};

use crate::identity::Claims;

/// How a job builds for Larder, in SLSA's words.
const BUILD_TYPE: &str = "https://github.com/larder-nix/larder/attestations/nix-build/v1";

/// Who builds, where the forge is not told.
const WITHHELD_BUILDER: &str = "https://github.com/larder-nix/larder/attestations/withheld";

/// Where and when something is stated.
pub(super) struct Place {
    /// The cache's URL: many caches are named `main`.
    pub(super) cache_url: String,
    /// The date. Another push may bring the path anew later, if its rule has a higher rank.
    pub(super) stated_at: String,
}

/// The statement as it is signed.
pub(super) fn of(
    provenance: &Provenance,
    claims: Option<&Claims>,
    place: &Place,
) -> serde_json::Result<Vec<u8>> {
    let mut predicate = serde_json::to_value(provenance)?;
    predicate["cache_url"] = json!(place.cache_url);
    predicate["stated_at"] = json!(place.stated_at);
    if let Some(claims) = claims {
        predicate["pushed_by"]["claims"] = serde_json::to_value(claims)?;
    }
    // It says no more than what `reported` says in full below.
    if let Some(predicate) = predicate.as_object_mut() {
        predicate.remove("reported_built");
    }
    if let (true, PushedBy::Job(job)) = (provenance.reported_built, &provenance.pushed_by) {
        predicate["reported"] = json!({
            "by": "the pushing job",
            "verified": false,
            "note": "The cache has verified who pushed. That this job built the path is what the job said of itself.",
            "predicateType": SLSA_PREDICATE,
            "predicate": slsa(provenance, job, claims),
        });
    }
    serde_json::to_vec(&Statement {
        kind: STATEMENT_TYPE.to_owned(),
        subject: vec![Subject::of(&provenance.path, &provenance.nar_hash)],
        predicate_type: PUSH_PREDICATE.to_owned(),
        predicate,
    })
}

/// SLSA's provenance, version 1, of a path that a job says it built: <https://slsa.dev/spec/v1.0/provenance>.
fn slsa(provenance: &Provenance, job: &PushingJob, claims: Option<&Claims>) -> Value {
    let server = job.run_url.as_deref().and_then(|url| url.split(&format!("/{}/", job.repository)).next());
    let source = server.map(|server| format!("git+{server}/{}@{}", job.repository, job.git_ref));
    let mut dependencies: Vec<Value> =
        source.map(|uri| json!({"uri": uri, "digest": {"gitCommit": job.commit}})).into_iter().collect();
    dependencies.extend(
        provenance.deriver.iter().map(|deriver| json!({"uri": format!("nix:{}", deriver.absolute())})),
    );
    let runner = claims.and_then(|claims| claims.runner_environment.as_deref()).unwrap_or("unknown");
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "repository": job.repository,
                "ref": job.git_ref,
                "workflow": job.workflow,
                "path": provenance.path.absolute(),
            },
            "internalParameters": {"event": job.event, "runner": runner},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": format!("{}#{runner}", job.issuer.as_deref().unwrap_or(WITHHELD_BUILDER))},
            "metadata": {"invocationId": job.run_url},
        },
    })
}
