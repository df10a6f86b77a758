//! `larderd stats`, as it is called.

use std::process::Command;

use larder_service::{clock::Clock, stats::take_sample};
use serde_json::Value;

use crate::{
    package,
    world::{DAY, World},
};

/// What it prints.
fn stats(world: &World, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
    let config = world.data.path().join("larder.toml");
    std::fs::write(&config, "").unwrap();
    command.envs(world.environment.clone());
    command.arg("stats").args(arguments).arg("--config").arg(config);
    let output = command.env("LARDER_DATA_DIR", world.data.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(world: &World, arguments: &[&str]) -> Value {
    serde_json::from_str(&stats(world, &[&["--json"], arguments].concat())).unwrap()
}

/// A store that is pushed to for ten days, up to now.
async fn ten_days() -> World {
    let world = World::new().await;
    let began = Clock::System.now() - 10 * DAY;
    world.pass(began - world.now());
    let (base, shared) = (package(1, &[]), package(2, &[]));
    for day in 0..10 {
        let seed = 10 + u8::try_from(day).unwrap();
        let (repository, id) = if day < 9 { ("acme/flake", 42) } else { ("acme/other", 43) };
        let branch = if day == 8 { "topic" } else { "main" };
        let top = package(seed, &[&base]);
        world.push(&world.job_of(repository, id, branch, day).await, &[&top, &base]).await;
        take_sample(&world.service).await.unwrap();
        world.pass(DAY);
    }
    let anna = world.person().await;
    world.push(&anna, &[&shared]).await;
    assert_eq!(world.pin(&anna, "web", &shared.info.path, None, 1).await, 204);
    assert!(world.has(&shared).await);
    take_sample(&world.service).await.unwrap();
    world
}

#[tokio::test]
async fn people_see_a_chart_the_growth_and_who_holds_how_much() {
    let world = ten_days().await;
    let text = stats(&world, &[]);
    assert!(text.contains('█') && text.contains(" │") && text.contains("size: growing, +"), "{text}");
    assert!(text.contains("12 paths in 8 closures") && text.contains("there is no budget"), "{text}");
    assert!(text.contains("1 paths asked for (100 % there), 1 NARs read"), "{text}");
    assert!(text.contains("main pin web") && text.contains("main ref acme/flake refs/heads/topic"), "{text}");
    assert!(stats(&world, &["--cache", "main"]).contains("size: growing"));
}

#[tokio::test]
async fn programs_get_the_same() {
    let world = ten_days().await;
    let told = json(&world, &[]);
    assert_eq!(told["samples"].as_array().unwrap().len(), 11);
    assert_eq!((&told["trend"]["state"], &told["budget"]), (&"growing".into(), &Value::Null));
    let largest = told["largest"].as_array().unwrap();
    let of = |kind: &str, name: &str| {
        let found = largest.iter().find(|held| held["kind"] == kind && held["name"] == name);
        let held = found.unwrap_or_else(|| panic!("no {kind} {name} in {largest:?}"));
        (held["only_bytes"].as_u64().unwrap(), held["all_bytes"].as_u64().unwrap())
    };
    // Five runs of main with a path each, one of topic, and what all of them need.
    let (only, all) = of("ref", "acme/flake refs/heads/topic");
    assert!(only > 59_000 && only < 63_000 && all > 2 * 59_000 && all < 2 * 63_000, "{only} of {all}");
    let (only, all) = of("repository", "acme/flake");
    assert!(only > 6 * 59_000 && only < 6 * 63_000 && all - only < 63_000 && all > only, "{only} of {all}");
    let (only, all) = of("pin", "web");
    assert_eq!(only, all);
    assert!(largest.len() <= 10 && largest[0]["kind"] == "repository", "{largest:?}");
    let repositories = told["repositories"].as_array().unwrap();
    assert!(
        repositories.iter().any(|one| one["repository"] == "acme/flake" && one["paths"] == 10),
        "{repositories:?}"
    );
    assert_eq!(json(&world, &["--since", "49h"])["samples"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn spreadsheets_get_all_samples() {
    let world = ten_days().await;
    let text = stats(&world, &["--csv"]);
    let mut lines = text.lines();
    let columns = lines.next().unwrap();
    assert!(columns.starts_with("taken_at,span,cache,repository,paths,"), "{columns}");
    let lines: Vec<&str> = lines.collect();
    let width = columns.split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == width), "{text}");
    assert_eq!(lines.iter().filter(|line| line.contains(",,\"\",")).count(), 11, "{text}");
    assert_eq!(lines.iter().filter(|line| line.contains(",main,\"acme/flake\",")).count(), 11);
}
