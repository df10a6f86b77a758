//! GitHub's API, when it takes connections and says nothing.

use std::{path::Path, sync::Arc, time::Duration};

use larder_service::{
    clock::Clock,
    config::{Config, Environment},
    forge::{ForgeError, GitHub},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Instant, timeout},
};

/// The clock of these time-outs goes on when all wait for it.
#[tokio::test(start_paused = true)]
async fn an_api_that_never_answers_is_given_up_within_half_a_minute() {
    for begins in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthe begin"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!("[github]\napi_url = \"http://{}\"\n", listener.local_addr().unwrap());
        let config = Config::parse(
            Path::new("larder.toml"),
            &text,
            &Environment::from([("LARDER_DATA_DIR", "/nowhere")]),
        );
        let silent = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                let _ = connection.read(&mut [0; 1024]).await;
                let _ = connection.write_all(begins).await;
                held.push(connection);
            }
        });
        let github = GitHub::new(&config.unwrap().github, Clock::Set(Arc::default())).unwrap();
        let began = Instant::now();
        let repository = "acme/flake".parse().unwrap();
        let asked = github.contents(&repository, "flake.lock", "main", 1000);
        let answer = timeout(Duration::from_secs(60 * 60), asked).await.expect("it waits for ever");
        let ended = matches!(answer, Err(ForgeError::NoAnswer(_) | ForgeError::Unreadable));
        assert!(ended, "{answer:?}");
        assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
        silent.abort();
    }
}
