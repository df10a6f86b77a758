//! `deploy/nixos`, by Nix's evaluator and a stand-in for nixpkgs' module system.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeMap, fs};

use larder_tests::{
    nix::{self, Output, run},
    programs::{program, repository},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// What the module makes of this `services.larder`.
async fn evaluate(services: &str) -> Output {
    let home = TempDir::new().unwrap();
    let repository = repository().canonicalize().unwrap();
    let expression = format!(
        "import {0}/tests/tests/nixos/stand_in.nix {{ module = {0}/deploy/nixos/module.nix; services.larder = {services}; }}",
        repository.display()
    );
    let mut evaluate = nix::command("nix-instantiate", home.path());
    run(evaluate.args(["--eval", "--strict", "--json", "-E", &expression])).await
}

/// The value at these keys.
fn at<'a>(value: &'a Value, keys: &[&str]) -> &'a Value {
    keys.iter().fold(value, |value, key| &value[*key])
}

/// As TOML writes it within a line.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            let keys: Vec<_> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", keys.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        plain => plain.to_string(),
    }
}

const WHOLE: &str = r#"{
    enable = true;
    openFirewall = true;
    nginx = { enable = true; hostName = "cache.example.org"; };
    credentials.webhook = "/run/keys/webhook";
    settings = {
      public_url = "https://cache.example.org";
      limits.max_nar_size = "10 GB";
      cache = [ { name = "main"; trust = [ { repository = "acme/flake"; ref = "refs/heads/main"; } ]; } ];
    };
}"#;

#[tokio::test]
async fn its_settings_become_a_configuration() {
    let made: Value = serde_json::from_str(&evaluate(WHOLE).await.expect_success()).unwrap();
    let Value::Object(settings) = at(&made, &["environment", "etc", "larder/larder.toml", "source"]) else {
        panic!("{made}")
    };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("larder.toml");
    let text: String = settings.iter().map(|(key, value)| format!("{key} = {}\n", toml(value))).collect();
    fs::write(&file, text).unwrap();
    let mut check = Command::new(program("larderd"));
    let meant = run(check.args(["check-config", "--config"]).arg(&file)).await.expect_success();
    for word in ["127.0.0.1:8080", "/var/lib/larder", "https://cache.example.org", "acme/flake"] {
        assert!(meant.contains(word), "{word}: {meant}");
    }
    let host = at(&made, &["services", "nginx", "virtualHosts", "cache.example.org"]);
    assert_eq!((&host["forceSSL"], &host["enableACME"]), (&true.into(), &true.into()));
    let included = host["extraConfig"].as_str().unwrap();
    assert!(included.starts_with("include /nix/store/") && included.ends_with("-larder.conf;"), "{included}");
    let ports = at(&made, &["networking", "firewall", "allowedTCPPorts"]);
    assert_eq!(ports, &serde_json::json!([80, 443]));
}

#[tokio::test]
async fn its_service_is_as_closed_as_the_unit() {
    let made: Value = serde_json::from_str(&evaluate(WHOLE).await.expect_success()).unwrap();
    let Value::Object(service) = at(&made, &["systemd", "services", "larderd", "serviceConfig"]) else {
        panic!("{made}")
    };
    let unit = fs::read_to_string(repository().join("deploy/systemd/larderd.service")).unwrap();
    let mut closed = BTreeMap::<&str, Vec<&str>>::new();
    for line in
        unit.lines().skip_while(|line| *line != "[Service]").skip(1).take_while(|line| *line != "[Install]")
    {
        if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            closed.entry(key).or_default().push(value);
        }
    }
    // Where the data may lie, and whose they are, differs.
    for key in ["DynamicUser", "StateDirectory", "StateDirectoryMode", "ExecStart"] {
        assert!(closed.remove(key).is_some(), "{key}");
    }
    for (key, values) in closed {
        let made = match service.get(key).unwrap_or_else(|| panic!("{key} is missing")) {
            Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
            Value::Array(values) => {
                values.iter().map(|value| value.as_str().unwrap()).collect::<Vec<_>>().join(" ")
            }
            Value::String(value) => value.clone(),
            other => other.to_string(),
        };
        assert_eq!(made, values.join(" "), "{key}");
    }
    assert_eq!(service["LoadCredential"], serde_json::json!(["webhook:/run/keys/webhook"]));
}

#[tokio::test]
async fn a_reader_needs_no_service() {
    let read = r#"{ read = [ { url = "https://cache.example.org/main"; publicKey = "cache.example.org-main-1:key="; } ]; }"#;
    let made: Value = serde_json::from_str(&evaluate(read).await.expect_success()).unwrap();
    let settings = serde_json::json!({"nix": {"settings": {
        "substituters": ["https://cache.example.org/main"],
        "trusted-public-keys": ["cache.example.org-main-1:key="],
        "fallback": true,
        "connect-timeout": 5,
        "narinfo-cache-negative-ttl": 0,
    }}});
    assert_eq!(made, settings);
    let wrong = evaluate("{ enable = true; settigns = { }; }").await;
    assert!(wrong.stderr.contains("services.larder.settigns is no option"), "{wrong:?}");
}

#[tokio::test]
async fn what_the_readme_says_is_understood() {
    let readme = fs::read_to_string(repository().join("deploy/README.md")).unwrap();
    let blocks: Vec<_> =
        readme.split("```nix\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let made: Value =
            serde_json::from_str(&evaluate(&format!("({block}).services.larder")).await.expect_success())
                .unwrap();
        assert!(made["nix"].is_object() || made["systemd"]["services"]["larderd"].is_object(), "{made}");
    }
}
