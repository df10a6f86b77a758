//! What the configuration takes, and what it says to what it does not.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

const RULE: &str =
    "public_url = \"https://cache.example.org\"\n[[cache]]\nname = \"main\"\n[[cache.trust]]\n";

fn environment() -> Environment {
    [(environment::DATA_DIR, "/data")].into()
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("larder.toml"), text, &environment())
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = parse("").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.base_url(), "http://127.0.0.1:8080");
    assert!(config.public_url.is_none());
    let [cache] = &config.caches[..] else { panic!("{:?}", config.caches) };
    assert_eq!((cache.name.as_str(), cache.priority), ("main", 30));
    assert_eq!(cache.upstreams[0].upstream.url, "https://cache.nixos.org");
    assert!(cache.trust.is_empty());
    assert_eq!(config.issuers[0].url.as_str(), issuer::GITHUB);
    assert_eq!(config.issuers[0].api_url.as_ref().unwrap().as_str(), "https://api.github.com/");
    assert_eq!(config.limits.max_body.get(), 100_000_000);
    assert_eq!(config.limits.upload_window.get(), 32 << 20);
}

#[test]
fn limits_that_nobody_could_work_with_are_refused() {
    for (line, told) in [
        ("max_open_body = \"1 kB\"", "limits.max_open_body: 1 kB is too little to work with"),
        ("max_recipes_body = \"1 kB\"", "limits.max_recipes_body"),
        ("max_small_body = \"1 kB\"", "limits.max_small_body"),
        ("max_head = \"1 kB\"", "Write at least \"4 KiB\""),
        ("max_head = \"1 MB\"", "Write at most \"48 KiB\""),
        ("max_nar_chunks = 10", "limits.max_nar_chunks: 10 is too few"),
        ("max_push_paths = 0", "limits.max_push_paths"),
        ("max_push_paths = 60000", "60000 is too many. Write at most 50000"),
        ("max_open_pushes = 0", "limits.max_open_pushes"),
        ("max_open_pushes_per_cache = 0", "limits.max_open_pushes_per_cache"),
        ("max_open_pushes_per_identity = 0", "limits.max_open_pushes_per_identity"),
        ("exchanges_per_address = 0", "limits.exchanges_per_address"),
        ("exchanges_per_repository = 0", "limits.exchanges_per_repository"),
        ("push_requests_per_address = 1", "limits.push_requests_per_address"),
        ("push_requests_per_identity = 1", "Write at least 60"),
        ("max_connections = 1", "limits.max_connections"),
        ("max_connection = 100", "max_connection"),
    ] {
        let text = refusal(&format!("[limits]\n{line}\n"));
        assert!(text.contains(told), "{line}: {text}");
    }
}

#[test]
fn what_is_kept_of_the_audit_log_and_who_is_a_proxy_can_be_said() {
    let config =
        parse("trusted_proxies = [\"10.0.0.0/8\", \"2001:db8::1\"]\n[audit]\nkeep = \"1y\"").unwrap();
    assert_eq!(config.audit.keep.seconds(), 365 * 86_400);
    let proxies: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "2001:db8::1/128"]);
    assert_eq!(parse("").unwrap().trusted_proxies.len(), 2, "loopback");
    for (text, told) in [
        ("trusted_proxies = [\"everybody\"]", "trusted_proxies: \"everybody\" is no network"),
        ("[audit]\nkeep = \"for ever\"", "is not a period"),
        ("[audit]\nmax_rows = 3", "audit.max_rows: 3 rows"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(told), "{text}: {refusal}");
    }
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        r#"
        listen = "[::]:80"
        public_url = "https://cache.example.org/"
        data_dir = "/elsewhere"
        [[issuer]]
        url = "https://token.actions.githubusercontent.com"
        [[issuer]]
        url = "https://git.example.org/"
        [limits]
        max_body = "90MB"
        max_nar_size = "1 GiB"
        max_push_bytes = "2 TB"
        upload_window = "16 mib"
        [[cache]]
        name = "main"
        priority = 20
        [[cache.upstream]]
        url = "https://other.example.org/nix/"
        public_keys = ["other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]
        [[cache.trust]]
        repository = "Acme/flake"
        repository_id = 42
        ref = "refs/heads/release-*"
        events = ["push", "pull_request"]
        publish = true
        issuer = "https://git.example.org/"
        [[cache]]
        name = "team.2"
        upstream = []
        [[cache.trust]]
        repository = "acme/flake"
        ref_protected = true
        issuer = "https://token.actions.githubusercontent.com"
        "#,
    )
    .unwrap();
    assert_eq!(config.public_url.as_ref().unwrap().origin(), "https://cache.example.org");
    assert_eq!(config.cache_url(&config.caches[1]), "https://cache.example.org/team.2");
    assert_eq!(config.caches[0].upstreams[0].upstream.url, "https://other.example.org/nix");
    assert!(config.caches[1].upstreams.is_empty());
    // The environment wins.
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.limits.max_nar_size.get(), 1 << 30);
    let rule = config.caches[0].trust.iter().next().unwrap();
    assert_eq!(
        rule.to_string(),
        "Acme/flake (only if its number is 42) on refs/heads/release-*, at pull_request, push, even though it may \
         not be public"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = [
        (environment::DATA_DIR, "/data"),
        (environment::LISTEN, "0.0.0.0:0"),
        (environment::PUBLIC_URL, "http://localhost:8080"),
        (environment::MAX_BODY, "5 MiB"),
    ];
    let config = Config::parse(Path::new("f"), "listen = \"[::1]:1\"", &environment.into()).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:0");
    assert_eq!(config.base_url(), "http://localhost:8080");
    assert_eq!(config.limits.max_body.get(), 5 << 20);
}

/// Each with what must be in the message: the key, the value, the remedy.
#[test]
fn what_cannot_be_is_refused_with_key_value_and_remedy() {
    let rule = |text: &str| format!("{RULE}{text}");
    for (text, expected) in [
        ("lisen = \"x\"", &["larder.toml", "line 1", "lisen", "`listen`"][..]),
        ("listen = \"localhost\"", &["listen", "\"localhost\"", "127.0.0.1:8080"]),
        ("listen = 8080", &["listen = 8080"]),
        ("= 1", &["larder.toml", "line 1"]),
        ("[limits]\nmax_body = 100", &["max_body = 100", "string"]),
        ("[limits]\nmax_body = \"100 megs\"", &["\"100 megs\"", "\"90 MB\""]),
        ("[limits]\nmax_body = \"99999999 TiB\"", &["99999999 TiB"]),
        ("[limits]\nmax_body = \"1 MB\"", &["limits.max_body", "1 MB", "at least \"2 MiB\""]),
        ("[retention]\nmax_size = \"0 GB\"", &["retention, max_size", "leaves room for nothing"]),
        ("[[cache]]\nname = \"main\"\nmax_size = \"0 B\"", &["cache \"main\", max_size"]),
        ("[[cache]]\nname = \"main\"\nmax_size = \"much\"", &["max_size", "is not a size"]),
        ("[limits]\nmax_nar_size = \"1 TB\"", &["limits.max_push_bytes", "limits.max_nar_size", "1 TB"]),
        ("public_url = \"cache.example.org\"", &["public_url", "\"cache.example.org\"", "https://cache"]),
        (
            "public_url = \"http://cache.example.org\"",
            &["http://cache.example.org", "in the clear", "https://"],
        ),
        ("public_url = \"https://cache.example.org/nix\"", &["leave the path out"]),
        ("public_url = \"https://a:b@cache.example.org\"", &["leave user and password out"]),
        ("public_url = \"https://cache.example.org/?x\"", &["leave what follows"]),
        ("public_url = \"ftp://cache.example.org\"", &["write https://"]),
        ("[[cache]]\nname = \"Main\"", &["\"Main\"", "not a cache name"]),
        ("[[cache]]", &["name"]),
        ("[[cache]]\nname = \"main~42-pr-7\"", &["cache.name", "main~42-pr-7", "without \"~\""]),
        ("[isolated]\nkeep = \"14m\"", &["\"14m\"", "for example 90d"]),
        ("[isolated]\nmax = 0", &["isolated.max", "at least 1"]),
        ("[isolated]\nmax_per_repository = 0", &["isolated.max_per_repository", "at least 1"]),
        ("[[cache]]\nname = \"a\"\n[[cache]]\nname = \"a\"", &["cache.name", "two caches named a"]),
        ("[[cache]]\nname = \"a\"\npriority = 41", &["cache \"a\", priority", "41", "40 or less"]),
        ("[[cache]]\nname = \"a\"\npriority = -1", &["priority = -1"]),
        (
            "[[cache]]\nname = \"a\"\n[[cache.upstream]]\nurl = \"nixos.org\"\npublic_keys = []",
            &["cache \"a\", upstream.url", "\"nixos.org\"", "https://cache.nixos.org"],
        ),
        (
            "[[cache]]\nname = \"a\"\n[[cache.upstream]]\nurl = \"https://nixos.org\"\npublic_keys = []",
            &["cache \"a\", upstream.public_keys", "https://nixos.org", "trusted-public-keys"],
        ),
        (
            "[[cache]]\nname = \"a\"\n[[cache.upstream]]\nurl = \"https://nixos.org\"\npublic_keys = [\"x\"]",
            &["public_keys", "not a public key"],
        ),
        (
            &rule("ref = \"refs/heads/main\""),
            &["cache \"main\", trust rule 1", "repository = \"owner/name\""],
        ),
        (&rule("repository = \"acme/flake\""), &["trust rule 1", "acme/flake", "ref = \"refs/heads/main\""]),
        (
            &rule("repository = \"acme/flake\"\nref_protected = false"),
            &["trust rule 1", "ref_protected = true"],
        ),
        (&rule("repository = \"acme\"\nref = \"refs/heads/main\""), &["\"acme\"", "owner/name"]),
        (&rule("repository = \"*/flake\"\nref = \"refs/heads/main\""), &["\"*/flake\"", "owner/name"]),
        (&rule("repository = \"acme/flake\"\nref = \"main\""), &["\"main\"", "refs/heads/main"]),
        (&rule("repository = \"acme/flake\"\nref = \"**\""), &["\"**\"", "refs/heads/main"]),
        (&rule("repository = \"acme/flake\"\nbranch = \"main\""), &["branch", "`ref`"]),
        (
            &rule("repository = \"acme/flake\"\nref_protected = true\nevents = []"),
            &["allows no event", "push"],
        ),
        (
            &rule("repository = \"acme/flake\"\nref_protected = true\nevents = [\"Push\"]"),
            &["\"Push\"", "`on:`"],
        ),
        (&rule("repository = \"acme/flake\"\nref_protected = true\nrank = 1001"), &["1001", "-999 to 1000"]),
        (
            &rule("repository = \"acme/flake\"\nisolate = true\nref = \"refs/heads/main\""),
            &["trust rule 1", "can never match", "Leave ref and ref_protected out"],
        ),
        (
            &rule("repository = \"acme/flake\"\nisolate = true\nref_protected = true"),
            &["trust rule 1", "can never match"],
        ),
        (
            &rule("repository = \"acme/flake\"\nref_protected = true\nissuer = \"https://example.org\""),
            &["https://example.org", "[[issuer]]"],
        ),
        (
            &format!("issuer = []\n{RULE}repository = \"acme/flake\"\nref_protected = true"),
            &["trust rule 1", "no issuer"],
        ),
        (
            &format!(
                "{RULE}repository = \"acme/flake\"\nref_protected = true\n[[issuer]]\nurl = \"https://a.org\"\n\
                 [[issuer]]\nurl = \"https://b.org\""
            ),
            &["trust rule 1", "several issuers", "issuer = "],
        ),
        ("[[issuer]]\nurl = \"http://example.org\"", &["http://example.org", "https://"]),
        (
            "[[issuer]]\nurl = \"https://a.org\"\n[[issuer]]\nurl = \"https://a.org\"",
            &["issuer.url", "https://a.org", "twice"],
        ),
        (
            "[[cache]]\nname = \"main\"\n[[cache.trust]]\nrepository = \"a/b\"\nref_protected = true",
            &["public_url", "is missing", "public_url = \"https://cache.example.org\""],
        ),
        ("[[webhook]]\nsecrets = [{ env = \"X\" }]", &["webhook rule 1", "names no repository", "owner/*"]),
        ("[[webhook]]\nrepositories = [\"acme\"]", &["\"acme\"", "owner/name"]),
        ("[[webhook]]\nrepositories = [\"*/x\"]", &["\"*/x\"", "owner/*"]),
        ("[[webhook]]\nrepositories = [\"*\"]", &["\"*\"", "owner/*"]),
        ("[[webhook]]\nrepositories = [\"a/*\"]", &["webhook rule 1", "0 secrets", "secrets = [{ file ="]),
        (
            "[[webhook]]\nrepositories = [\"a/*\"]\nsecrets = [{ env = \"A\" }, { env = \"B\" }, { env = \"C\" }]",
            &["webhook rule 1", "3 secrets"],
        ),
        (
            "[[webhook]]\nrepositories = [\"a/*\"]\nsecrets = [{ env = \"A\" }]",
            &["webhook rule 1, secrets", "environment's A is missing", "openssl rand -hex 32"],
        ),
        (
            "[[webhook]]\nrepositories = [\"a/*\"]\nsecrets = [{ file = \"/nowhere/secret\" }]",
            &["webhook rule 1, secrets", "/nowhere/secret", "cannot be read", "openssl rand -hex 32"],
        ),
        ("[[webhook]]\nrepositories = [\"a/*\"]\nsecrets = [\"in the file\"]", &["secrets = "]),
        ("[deliveries]\nkeep = \"7\"", &["\"7\"", "90d"]),
    ] {
        let refusal = refusal(text);
        for part in expected {
            assert!(refusal.contains(part), "{text:?} is refused without {part:?}:\n{refusal}");
        }
    }
}

#[test]
fn a_wrong_variable_is_named() {
    for (name, value, remedy) in [
        (environment::LISTEN, "8080", "127.0.0.1:8080"),
        (environment::PUBLIC_URL, "http://example.org", "https://"),
        (environment::MAX_NAR_SIZE, "lots", "90 MB"),
    ] {
        let environment = [(environment::DATA_DIR, "/data"), (name, value)].into();
        let refusal = Config::parse(Path::new("f"), "", &environment).unwrap_err().to_string();
        assert!(refusal.contains(name) && refusal.contains(value) && refusal.contains(remedy), "{refusal}");
    }
}

#[test]
fn the_data_go_where_the_system_wants_them() {
    let place =
        |environment: Environment| environment.default_data_dir().map(|place| place.display().to_string());
    assert_eq!(place([("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")].into()).unwrap(), "/var/lib/a");
    let user = place([("XDG_DATA_HOME", "/home/anna/data")].into()).unwrap();
    let root = rustix::process::geteuid().is_root();
    assert_eq!(user, if root { "/var/lib/larder" } else { "/home/anna/data/larder" });
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("larder.toml");
    let missing = Config::load(Some(&file), &environment(), ForgeSecrets::Read).unwrap_err().to_string();
    assert!(missing.contains("larder.toml") && missing.contains("--config"), "{missing}");
    fs::write(&file, "listen = \"127.0.0.1:9\"").unwrap();
    assert_eq!(Config::load(Some(&file), &environment(), ForgeSecrets::Read).unwrap().listen.port(), 9);
}

#[test]
fn sizes_are_shown_as_they_are_written() {
    for (text, shown) in
        [("90MB", "90 MB"), ("48 MiB", "48 MiB"), ("1000000", ""), ("0 B", "0 B"), ("1000 kb", "1 MB")]
    {
        match text.parse::<ByteSize>() {
            Ok(size) => assert_eq!(size.to_string(), shown),
            Err(_) => assert_eq!(shown, "", "{text}"),
        }
    }
}

#[test]
fn a_webhooks_secrets_come_from_files_or_the_environment_and_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "a secret in a file\n").unwrap();
    let text = format!(
        "[[webhook]]\nrepositories = [\"acme/flake\"]\nsecrets = [{{ file = \"{}\" }}, {{ env = \"SECRET\" }}]",
        file.display()
    );
    let with = |secret: &str| {
        let environment = [(environment::DATA_DIR, "/data"), ("SECRET", secret)].into();
        Config::parse(Path::new("larder.toml"), &text, &environment)
    };
    let config = with("a secret of the environment").unwrap();
    let [rule] = &config.webhooks[..] else { panic!("{:?}", config.webhooks) };
    let secrets: Vec<&[u8]> = rule.secrets.iter().map(WebhookSecret::as_bytes).collect();
    assert_eq!(secrets, [&b"a secret in a file"[..], b"a secret of the environment"]);
    for shown in [format!("{config:?}"), rule.to_string()] {
        assert!(!shown.contains("a secret"), "{shown}");
    }
    let refusal = with("short secret").unwrap_err().to_string();
    assert!(refusal.contains("SECRET has 12 bytes") && !refusal.contains("short"), "{refusal}");
}

#[test]
fn a_databases_password_lies_in_a_file_that_is_closed_to_others_and_says_something() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let text = format!("[database]\nurl = \"postgres://db/larder\"\npassword_file = \"{}\"", file.display());
    for (mode, password, told) in [
        (0o644, "secret\n", Some("has the mode 644: others can reach it. Write: chmod 600")),
        (0o600, "\n", Some("it is empty. Write the secret into it")),
        (0o640, "secret\n", None),
    ] {
        fs::write(&file, password).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        match (parse(&text), told) {
            (Ok(_), None) => {}
            (Err(error), Some(told)) => {
                let refusal = error.to_string();
                let named = refusal.starts_with("database.password_file: ");
                assert!(named && refusal.contains(told), "{refusal}");
            }
            (parsed, told) => panic!("{mode:o}, {told:?}: {parsed:?}"),
        }
    }
}
