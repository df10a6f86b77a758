//! The real program is killed with `kill -9` at every step of the removal of pull requests' caches: of one that no job has
//! used for long, and of the files of another that went before.
//!
//! Its steps are its statements, which it logs if one asks for that: it is killed as soon as it has logged so many.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use larder_protocol::narinfo::NarInfo;
use larder_service::{
    Service,
    audit::Who,
    clock::Clock,
    config::{Config, Environment},
    isolated::tidy,
};
use larder_tests::{
    killing::{copy, do_what_is_left},
    package::Package,
    programs::program,
    test_servers::objects::Objects,
    world::Scene,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    end::{DAY, OWN, with_much},
    scene::{RULE, pull_request, rows_in, world},
};

const HOUR: i64 = 60 * 60;

/// What is on disk.
#[derive(Debug, PartialEq)]
struct Kept {
    rows: BTreeMap<String, i64>,
    objects: Vec<String>,
}

impl Kept {
    async fn in_folder(data: &Path) -> Self {
        Self { objects: Objects::of(data).sizes().await.into_keys().collect(), rows: rows_in(data).await }
    }
}

/// Before the removal: the folder, what is in it, what is to be left of that, and the parent's path.
struct Scenery {
    folder: TempDir,
    all: Kept,
    parents: Kept,
    library: Package,
    configuration: String,
}

impl Scenery {
    async fn new() -> Self {
        let mut world = world("keep = \"3d\"").await;
        // All of it happened some time ago, so that it is due for the program, which knows the time.
        world.clock.store(Clock::System.now() - 10 * DAY, Ordering::SeqCst);
        let (library, rows, objects) = with_much(&world).await;
        let other = pull_request(&world, 8).await;
        other.push(&[&Package::noise("other", 300_000)]).await.unwrap();
        let (service, now) = (world.service(), world.service().clock.now());
        let name = &other.cache().name;
        assert!(service.metadata.drop_isolated(name, &Who::default(), "a test", now).await.unwrap());
        tidy(service).await.unwrap();
        world.stop().await;
        let (data, folder) = (world.data_dir(), TempDir::new().unwrap());
        let parents = Kept { objects, rows };
        let all = Kept::in_folder(&data).await;
        assert!(all.objects.len() > parents.objects.len() + 1);
        copy(&data, folder.path());
        let configuration = format!(
            "listen = \"127.0.0.1:0\"\npublic_url = \"http://127.0.0.1:8080\"\ndata_dir = \".\"\n\
             [[issuer]]\nurl = \"{}\"\n{}\n{RULE}[isolated]\nkeep = \"3d\"\n",
            world.github.issuer(),
            Scene::default().caches
        );
        Self { folder, all, parents, library, configuration }
    }
}

/// Runs the program until it has logged so many statements from the first of the removal on, then kills it. Whether all
/// was done by then.
async fn kill_at(folder: &Path, statements: usize) -> bool {
    let mut larderd = Command::new(program("larderd"))
        .args(["--config", "larder.toml"])
        .current_dir(folder)
        .env("LARDER_LOG", "info,sqlx=debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(larderd.stderr.take().unwrap()).lines();
    let (mut logged, mut rows_gone, mut files_gone) = (0, false, false);
    while logged < statements {
        let line = log.next_line().await.unwrap().expect("larderd ended by itself");
        rows_gone |= line.contains("a pull request's cache was removed");
        files_gone |= line.contains("DELETE FROM objects");
        let begins = line.contains("UPDATE isolated_caches SET dropped_at");
        logged += usize::from(line.contains("db.statement") && (begins || logged > 0));
    }
    larderd.kill().await.unwrap();
    rows_gone && files_gone
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_the_removal_leaves_all_or_nothing_after_a_restart() {
    let scenery = Scenery::new().await;
    let mut killed = 0;
    for statements in 1.. {
        let folder = TempDir::new().unwrap();
        copy(scenery.folder.path(), folder.path());
        std::fs::write(folder.path().join("larder.toml"), &scenery.configuration).unwrap();
        let done = kill_at(folder.path(), statements).await;
        scenery.check(folder.path(), statements).await;
        if done {
            break;
        }
        killed += 1;
    }
    assert!(killed > 15, "the removal had {killed} steps");
}

impl Scenery {
    /// Restarts on what a killed program left.
    async fn check(&self, data: &Path, statements: usize) {
        let environment = Environment::from([("LARDER_DATA_DIR", data.to_str().unwrap())]);
        let config = Config::parse(Path::new("larder.toml"), &self.configuration, &environment).unwrap();
        let time = Arc::new(AtomicI64::new(Clock::System.now()));
        let service = Service::open(config, Clock::Set(time.clone())).await.unwrap();
        // As long as it is served it is whole.
        if service.metadata.find_isolated(&OWN.parse().unwrap()).await.unwrap().is_some() {
            let Kept { rows, .. } = Kept::in_folder(data).await;
            for table in ["paths", "nars", "nar_chunks", "chunks"] {
                assert_eq!(rows[table], self.all.rows[table], "killed after {statements} statements");
            }
        }
        tidy(&service).await.unwrap();
        time.fetch_add(2 * HOUR + 1, Ordering::SeqCst);
        tidy(&service).await.unwrap();
        assert_eq!(Kept::in_folder(data).await, self.parents, "killed after {statements} statements");

        do_what_is_left(&service, async |url| {
            let get = async |page: &str| reqwest::get(format!("{url}/main/{page}")).await.unwrap();
            let narinfo = get(&format!("{}.narinfo", self.library.info.path.hash())).await;
            let narinfo = NarInfo::parse(&narinfo.text().await.unwrap()).unwrap();
            let nar = get(&narinfo.url).await.bytes().await.unwrap();
            assert!(zstd::decode_all(&nar[..]).unwrap() == self.library.nar);
        })
        .await;
    }
}
