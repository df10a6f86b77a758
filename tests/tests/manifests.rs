//! What a job wanted, as its agent reports it: of a real store, to a real service.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use larder_action::{
    agent::{
        messages::{Finish, JobIdentity, Start},
        push::Work,
    },
    credentials::Credentials,
    secret::Secret,
    store::{Mark, NixStore},
    workflow::inputs::What,
};
use larder_protocol::{
    StorePath,
    api::CacheInfo,
    manifest::{Manifest, Manifests, System},
};
use larder_tests::{
    github::{Job, StartedJob},
    nix::{Nix, ScratchStore, run_with_input},
    package::Package,
    programs::program,
    world::{Scene, World},
};
use tokio::process::Command;

/// The agent's last word to the job whose store is below `root`; all that it says.
async fn finish(world: &World, job: &StartedJob, root: &Path) -> String {
    push(world, job, root, false, (Mark::default(), None)).await
}

/// The same where the store may be others' too, from such a mark on, and the workflow may name paths.
async fn push(
    world: &World,
    job: &StartedJob,
    root: &Path,
    shared: bool,
    (mark, paths): (Mark, Option<Vec<StorePath>>),
) -> String {
    let cache: CacheInfo =
        reqwest::get(format!("{}/api/v1/caches/main", world.url())).await.unwrap().json().await.unwrap();
    let credentials = Credentials::Job {
        request_url: job.request_url.parse().unwrap(),
        request_token: Secret::new(&job.request_token),
    };
    let start = Start {
        service: world.url().parse().unwrap(),
        cache: "main".parse().unwrap(),
        identity: JobIdentity::of(&credentials),
        push: true,
        what: What::Built,
        shared,
        relay: false,
        user: 0,
        pull_request: false,
        lifetime: 60,
        marker: false,
        level: 3,
        max_body: None,
    };
    let finish = Finish { paths, seconds: 60 };
    let work = Work { start, mark, cache: Some(cache), finish };
    let mut agent = Command::new(program("larder"));
    agent.env_clear().args(["agent", "push", "--root"]).arg(root);
    let mut line = serde_json::to_vec(&work).unwrap();
    line.push(b'\n');
    run_with_input(&mut agent, &line).await.expect_success()
}

/// What the service tells of the ref.
async fn manifests(world: &World) -> Vec<Manifest> {
    let page = format!("{}/api/v1/repositories/acme/flake/manifests?ref=refs/heads/main", world.url());
    let token = world.client().await.token().to_owned();
    let answer = reqwest::Client::new().get(page).bearer_auth(token).send().await.unwrap();
    answer.json::<Manifests>().await.unwrap().manifests
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_builds_nothing_reports_what_it_substituted() {
    let world = World::new().await;
    let packages = [Package::noise("tool", 1000), Package::noise("library", 1000)];
    for package in &packages {
        world.client().await.push(&[package]).await.unwrap();
    }
    let store = ScratchStore::new(Nix::Installed);
    let paths: Vec<_> = packages.iter().map(|package| package.info.path.absolute().into()).collect();
    store.realise(&world.reader().await, &paths).await.expect_success();

    let job = world.github.start_job(Job::default());
    let told = finish(&world, &job, store.root()).await;
    assert!(told.contains("\"done\"") && !told.contains("not reported"), "{told}");
    let [manifest] = &manifests(&world).await[..] else { panic!("{told}") };
    let mut expected: Vec<_> = packages.iter().map(|package| package.info.path.clone()).collect();
    expected.sort_unstable();
    assert_eq!((&manifest.built[..], &manifest.substituted), (&[][..], &expected));
    assert_eq!(manifest.system, System::of_this_machine().as_str());
    assert_eq!((manifest.repository.as_str(), manifest.git_ref.as_str()), ("acme/flake", "refs/heads/main"));

    // Nothing of it fails a job: here one that may not report.
    let stranger = world.github.start_job(Job::push("acme/flake", "topic"));
    let told = finish(&world, &stranger, store.root()).await;
    assert!(told.contains("\"done\"") && told.contains("not reported"), "{told}");
    assert_eq!(manifests(&world).await.len(), 1);
}

/// Whoever reads a public cache is not told which caches of others it has as upstreams; a job that pushes is, so that it
/// leaves to them what they have.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_shared_store_a_jobs_session_tells_which_upstreams_have_what_it_needs() {
    let upstream = World::new().await;
    let library = Package::noise("library", 1000);
    let program = Package::noise("program", 1000).referring_to([&library]);
    upstream.client().await.push(&[&library, &program]).await.unwrap();
    let reader = upstream.reader().await;
    let [url, key] = [&reader.substituters[0], &reader.public_keys[0]];
    let listed = format!("upstream = [{{ url = \"{url}\", public_keys = [\"{key}\"] }}]");
    let caches = Scene::default().caches.replace("upstream = []", &listed);
    let world = World::with(Scene { caches, ..Scene::default() }).await;

    let store = ScratchStore::new(Nix::Installed);
    store.realise(&reader, &[program.info.path.absolute().into()]).await.expect_success();
    // All of it lay there before the job began: whose it is nobody can tell, but for what an upstream has signed.
    let mark = NixStore::open(store.root()).await.unwrap().high_water_mark().await.unwrap();
    let job = world.github.start_job(Job::default());
    let told = push(&world, &job, store.root(), true, (mark, Some(vec![program.info.path.clone()]))).await;
    assert!(told.contains("\"done\"") && told.contains("2 at upstreams"), "{told}");
    assert!(!told.contains("left out"), "{told}");
}
