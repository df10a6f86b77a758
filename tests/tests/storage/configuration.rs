//! What `[storage]` takes, and what it says to what it does not.

use std::{fs, future::IntoFuture as _, path::Path};

use axum::http::StatusCode;
use larder_service::{
    config::{BucketConfig, Config, ConfigError, Environment, StorageConfig},
    storage::Storage,
};
use larder_tests::world::secret_file;
use tempfile::TempDir;
use tokio::net::TcpListener;

fn options<const N: usize>(text: &str, environment: [(&str, &str); N]) -> Result<Vec<String>, ConfigError> {
    let text = format!("data_dir = \"/data\"\n[storage]\n{text}");
    let environment = Environment::from(environment);
    match Config::parse(Path::new("larder.toml"), &text, &environment)?.storage {
        StorageConfig::Folder => Ok(Vec::new()),
        StorageConfig::Bucket(bucket) => {
            Ok(bucket.options.iter().map(|(key, value)| format!("{key}={value}")).collect())
        }
    }
}

#[test]
fn a_bucket_is_below_its_services_address_or_has_a_host_of_its_own() {
    let said = |text| options(&format!("url = \"s3://objects/folder\"\n{text}"), []).unwrap();
    assert_eq!(said(""), [""; 0]);
    assert_eq!(
        said("endpoint = \"http://garage:3900\"\nregion = \"garage\""),
        ["allow_http=true", "aws_endpoint=http://garage:3900", "aws_region=garage"]
    );
    // AWS's own name for it.
    let variable = [("AWS_ENDPOINT_URL", "http://garage:3900")];
    assert_eq!(
        options("url = \"s3://objects\"", variable).unwrap(),
        ["allow_http=true", "aws_endpoint=http://garage:3900"]
    );
    assert_eq!(
        said("endpoint = \"https://s3.example.org\"\nvirtual_hosted = true"),
        [
            "allow_http=false",
            "aws_endpoint=https://objects.s3.example.org",
            "aws_virtual_hosted_style_request=true"
        ]
    );
}

#[test]
fn what_the_documentation_says_of_buckets_is_a_configuration() {
    let dir = TempDir::new().unwrap();
    let secret = secret_file(&dir.path().join("secret"), "a secret\n");
    let text = include_str!("../../../docs/operations.md");
    let blocks: Vec<String> = text
        .split("<!-- bucket: ")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```toml\n")?.1.split_once("```")?.0))
        .map(|block| block.replace("/etc/larder/s3-secret", &secret))
        .collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let text = format!("data_dir = \"/data\"\n{block}");
        let config = Config::parse(Path::new("larder.toml"), &text, &Environment::default()).unwrap();
        let StorageConfig::Bucket(bucket) = config.storage else { panic!("{block}") };
        Storage::open_bucket(&bucket).unwrap();
    }
}

#[test]
fn who_asks_is_said_by_one_source_alone() {
    let dir = TempDir::new().unwrap();
    let shared = dir.path().join("credentials");
    fs::write(&shared, "[default]\naws_access_key_id=A\naws_secret_access_key=B\n").unwrap();
    let file = format!("url = \"s3://objects\"\ncredentials_file = \"{}\"", shared.display());
    let keys = ["aws_access_key_id=A", "aws_secret_access_key=B"];
    let environment =
        [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "F"), ("AWS_SESSION_TOKEN", "G")];
    assert_eq!(options(&file, environment).unwrap(), keys);
    assert_eq!(
        options("url = \"s3://objects\"", environment).unwrap(),
        ["aws_access_key_id=E", "aws_secret_access_key=F", "aws_session_token=G"]
    );
    let endpoint = "url = \"s3://objects\"\nendpoint = \"https://s3.example.org\"";
    let environment = [("AWS_ENDPOINT_URL", "https://another"), ("AWS_ENDPOINT_URL_S3", "https://a-third")];
    let said = ["allow_http=false", "aws_endpoint=https://s3.example.org"];
    assert_eq!(options(endpoint, environment).unwrap(), said);
    let shared = shared.display().to_string();
    let environment = [("AWS_SHARED_CREDENTIALS_FILE", &*shared)];
    assert_eq!(options("url = \"s3://objects\"", environment).unwrap(), keys);
    let refusal =
        options("url = \"s3://objects\"\nprofile = \"other\"", environment).unwrap_err().to_string();
    assert!(refusal.contains("[other]"), "{refusal}");
}

#[test]
fn what_is_said_of_no_bucket_or_of_half_a_key_is_refused() {
    for (text, told) in [
        ("region = \"eu\"", "storage.region"),
        ("hot_tier = { folder = \"/x\", max_size = \"1 GB\" }", "storage.hot_tier"),
        ("url = \"s3://objects\"\nhot_tier = { folder = \"/x\" }", "max_size"),
        ("url = \"ftp://objects\"", "s3://, gs:// or az://"),
        ("url = \"s3://key:secret@objects\"", "storage.url: is not a bucket"),
        ("url = \"objects\"", "storage.url: \"objects\" is no storage that larderd knows. Write s3://"),
        ("url = \"file:///srv/objects\"", "leave it out for a folder in data_dir"),
        ("url = \"https://key:secret@objects\"", "storage.url: is no storage"),
        ("url = \"gs://objects\"\nendpoint = \"http://x\"", "storage.endpoint"),
        ("url = \"s3://objects\"\nendpoint = \"http://x/objects\"", "is not the address of an S3 service"),
        ("url = \"s3://objects\"\nendpoint = \"s3.example.org\"", "Write \"https://host\""),
        ("url = \"s3://objects\"\nprofile = \"p\"", "~/.aws/credentials: it cannot be read: No such file"),
        (
            "url = \"s3://objects\"\nprofile = \"p\"",
            "Write storage.credentials_file, or AWS_SHARED_CREDENTIALS_FILE",
        ),
        ("url = \"s3://objects\"\naccess_key_id = \"x\"", "storage.secret_access_key_file"),
        ("url = \"s3://objects\"\nsecret_access_key_file = \"/x\"", "storage.access_key_id"),
        ("url = \"s3://objects\"\ncredentials_file = \"/nonexistent\"", "/nonexistent"),
    ] {
        let refusal = options(text, []).unwrap_err().to_string();
        assert!(refusal.contains(told), "{text}: {refusal}");
        assert!(!refusal.contains("secret@"), "{refusal}");
    }
    for (name, value, told) in [
        ("LARDER_STORAGE_URL", "https://objects", "LARDER_STORAGE_URL: \"https://objects\" is no storage"),
        (
            "AWS_SHARED_CREDENTIALS_FILE",
            "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE: /nonexistent: it cannot be read",
        ),
        ("AWS_PROFILE", "mirror", "AWS_PROFILE: ~/.aws/credentials: it cannot be read"),
    ] {
        let refusal = options("url = \"s3://objects\"", [(name, value)]).unwrap_err().to_string();
        assert!(refusal.contains(told), "{refusal}");
    }
}

#[test]
fn what_is_said_of_the_mirror_alone_says_nothing_of_the_services_own_bucket() {
    let environment = Environment::from([
        ("AWS_ENDPOINT_URL", "https://ours"),
        ("AWS_SESSION_TOKEN", "ours"),
        ("LARDER_MIRROR_AWS_ENDPOINT_URL", "https://theirs"),
        ("LARDER_MIRROR_AWS_ACCESS_KEY_ID", "A"),
        ("LARDER_MIRROR_AWS_SECRET_ACCESS_KEY", "B"),
    ]);
    let of = |environment: &Environment| {
        BucketConfig::of_environment("--to", "s3://objects", environment).unwrap().options
    };
    let mirror = of(&environment.of_mirror());
    assert_eq!(mirror["aws_endpoint"], "https://theirs");
    assert_eq!((mirror.get("aws_session_token"), &*mirror["aws_access_key_id"]), (None, "A"));
    let ours = of(&environment);
    assert_eq!((&*ours["aws_endpoint"], &*ours["aws_session_token"]), ("https://ours", "ours"));
    assert_eq!(of(&Environment::from([("AWS_REGION", "eu")]).of_mirror())["aws_region"], "eu");
}

#[test]
fn a_profile_is_read_as_awss_programs_read_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("credentials");
    let text = "# a comment\n[default]\naws_access_key_id = A\naws_secret_access_key=B/+=\nregion = x\n\n\
                [other]\n; another\nAWS_ACCESS_KEY_ID=C\naws_secret_access_key = D\naws_session_token = E==\n\
                [half]\naws_access_key_id = F\n";
    let file = secret_file(&file, text);
    let said = |profile| {
        options(
            &format!("url = \"s3://objects\"\ncredentials_file = \"{file}\"\nprofile = \"{profile}\""),
            [],
        )
    };
    assert_eq!(said("default").unwrap(), ["aws_access_key_id=A", "aws_secret_access_key=B/+="]);
    assert_eq!(
        said("other").unwrap(),
        ["aws_access_key_id=C", "aws_secret_access_key=D", "aws_session_token=E=="]
    );
    for (profile, told) in [("none", "it has no [none]"), ("half", "needs aws_access_key_id and")] {
        let refusal = said(profile).unwrap_err().to_string();
        assert!(refusal.contains(told), "{refusal}");
    }
}

/// The answer is S3's own: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
#[tokio::test]
async fn a_bucket_that_does_not_exist_is_not_ready() {
    async fn none() -> (StatusCode, &'static str) {
        (StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>")
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(none)).into_future());
    let dir = TempDir::new().unwrap();
    let secret = secret_file(&dir.path().join("secret"), "a secret");
    let text = format!(
        "data_dir = \"/data\"\n[storage]\nurl = \"s3://objects\"\nendpoint = \"http://{address}\"\n\
         access_key_id = \"larder\"\nsecret_access_key_file = \"{secret}\"\n"
    );
    let config = Config::parse(Path::new("larder.toml"), &text, &Environment::default()).unwrap();
    let error = Storage::open(&config).unwrap().ping().await.unwrap_err();
    assert_eq!(error.to_string(), "there is no bucket s3://objects. Make it, or mend storage.url");
    assert!(error.is_unavailable());
}
