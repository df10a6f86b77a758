//! The service as a program that is killed with `kill -9` at a step of its work.
//!
//! Its steps are its statements, which it logs if one asks for that, and whatever else a test counts.

use std::{fs, path::Path, process::Stdio, sync::Arc};

use larder_service::{Service, serve};
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Command,
    sync::{mpsc::UnboundedReceiver, oneshot},
};

/// Runs it, and kills it so many steps after it began its first job; or when the job is done that logs `done`. Whether it
/// was killed before that.
pub async fn kill_at(
    mut larderd: Command,
    step: usize,
    done: &str,
    others: &mut UnboundedReceiver<()>,
) -> bool {
    larderd.env("LARDER_LOG", "info,sqlx=debug").stdin(Stdio::null()).stdout(Stdio::null());
    let mut larderd = larderd.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut log = BufReader::new(larderd.stderr.take().unwrap()).lines();
    let (mut begun, mut is_done, mut steps, mut last) = (false, false, 0, String::new());
    let killed = loop {
        tokio::select! {
            line = log.next_line() => {
                let Some(line) = line.unwrap() else { panic!("larderd ended by itself: {last}") };
                is_done |= line.contains(done);
                if !line.contains("db.statement") {
                    last = line;
                    continue;
                }
                begun |= line.contains("UPDATE jobs SET state = 'running'");
                if is_done && line.contains("DELETE FROM jobs WHERE id = ") {
                    break false;
                }
            }
            Some(()) = others.recv() => {}
        }
        steps += usize::from(begun);
        if steps >= step {
            break true;
        }
    };
    larderd.kill().await.unwrap();
    killed
}

/// Copies what a service has kept, and has all jobs of a kind be due in the copy.
pub async fn copy_with_due(data: &Path, to: &Path, kind: &str) {
    copy(data, to);
    let mut database = SqliteConnectOptions::new().filename(to.join("larder.db")).connect().await.unwrap();
    let due = sqlx::query("UPDATE jobs SET due_at = 0 WHERE state = 'waiting' AND kind = ?").bind(kind);
    assert_eq!(due.execute(&mut database).await.unwrap().rows_affected(), 1, "there is no such job");
    sqlx::Connection::close(database).await.unwrap();
}

/// Has a service do all that is left to do, has `look` look at it by its URL, and ends it.
pub async fn do_what_is_left<T>(service: &Arc<Service>, look: impl AsyncFnOnce(&str) -> T) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(serve(service.clone(), listener, async {
        let _ = stopped.await;
    }));
    service.queue.wake();
    service.queue.idle().await.unwrap();
    let seen = look(&url).await;
    drop(stop);
    served.await.unwrap();
    seen
}

/// Copies a folder's files, with who may read them, into another, which is made if it is not there.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
