//! Days, or a year, of a store: twenty repositories that push every day, pull requests that come and go, and a budget. A thousandth
//! of what it would be: 5 MB instead of 5 GB.
//!
//! With `LARDER_YEAR_SVG=docs/year.svg` it is the whole year, and the curve is drawn there.

use larder_protocol::StorePath;
use larder_service::{
    config::{ByteSize, Config},
    retention::sweep,
    stats::{
        chart::chart,
        take_sample, thin,
        trend::{State, trend},
    },
};

use crate::{
    nar::{TestNar, contents},
    picture,
    world::{HOUR, World},
};

const BUDGET: u64 = 5_000_000;
/// A year where its picture is asked for, which takes a while; else the days until the budget is full, and two more.
const DAYS: [usize; 2] = [5, 365];
const REPOSITORIES: usize = 20;
/// Where to write the picture, for docs/.
const PICTURE: &str = "LARDER_YEAR_SVG";

/// A number for each path that ever was.
fn path(number: u64) -> StorePath {
    let mut hash = [7; 20];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    StorePath::new(larder_protocol::StorePathHash(hash), "x").unwrap()
}

/// What everybody's closures have in common, and what changes with every build: most of it stays as it was.
struct Repository {
    name: String,
    id: u64,
    library: TestNar,
    /// Of each branch, what was pushed last.
    newest: Vec<(String, TestNar)>,
}

struct Year {
    world: World,
    base: Vec<TestNar>,
    repositories: Vec<Repository>,
    /// How many paths there ever were, and how many runs.
    paths: u64,
    runs: u64,
    pushed: u64,
    /// Pushes for which there was no room until a sweep had made some.
    refused: u64,
}

impl Year {
    async fn begin() -> Self {
        fn rules(config: &mut Config) {
            config.retention.max_size = Some(ByteSize::bytes(BUDGET));
        }
        let mut year = Self {
            world: World::with(rules).await,
            base: Vec::new(),
            repositories: Vec::new(),
            paths: 0,
            runs: 0,
            pushed: 0,
            refused: 0,
        };
        for size in [150_000, 60_000, 20_000, 10_000] {
            let base = year.nar(&contents(year.paths + 1, size, &[]), &[]);
            year.base.push(base);
        }
        for number in 0..REPOSITORIES {
            let library = year.library();
            let (name, id) = (format!("acme/flake-{number}"), 100 + number as u64);
            year.repositories.push(Repository { name, id, library, newest: Vec::new() });
        }
        year
    }

    fn nar(&mut self, contents: &[u8], references: &[&StorePath]) -> TestNar {
        self.paths += 1;
        TestNar::new(path(self.paths), contents, references)
    }

    fn library(&mut self) -> TestNar {
        let references: Vec<StorePath> = self.base.iter().map(|base| base.info.path.clone()).collect();
        let contents = contents(1_000_000 + self.paths, 30_000, &[]);
        self.nar(&contents, &references.iter().collect::<Vec<_>>())
    }

    /// Builds a branch anew and pushes it with all that it needs.
    async fn push(&mut self, repository: usize, branch: &str) {
        // The first two thirds are always the same.
        let mut bytes = contents(5000 + repository as u64, 50_000, &[]);
        bytes.extend(contents(2_000_000 + self.paths, 25_000, &[]));
        let library = self.repositories[repository].library.info.path.clone();
        let base = self.base[0].info.path.clone();
        let top = self.nar(&bytes, &[&library, &base]);
        self.runs += 1;
        let of = &self.repositories[repository];
        let job = self.world.job_of(&of.name, of.id, branch, self.runs).await;
        let closure: Vec<&TestNar> = [&top, &of.library].into_iter().chain(&self.base).collect();
        if !self.world.try_push(&job, &closure).await {
            self.refused += 1;
            sweep(&self.world.service).await.unwrap();
            assert!(self.world.try_push(&job, &closure).await, "there is no room even after a sweep");
        }
        self.pushed += top.bytes.len() as u64;
        let newest = &mut self.repositories[repository].newest;
        newest.retain(|(name, _)| name != branch);
        newest.push((branch.to_owned(), top));
    }

    /// A pull request is closed.
    async fn drop(&mut self, repository: usize, branch: &str) {
        let of = &mut self.repositories[repository];
        of.newest.retain(|(name, _)| name != branch);
        let (metadata, now) = (&self.world.service.metadata, self.world.now());
        let (main, git_ref) = ("main".parse().unwrap(), format!("refs/heads/{branch}"));
        metadata.drop_roots(&main, &of.name, Some(&git_ref), &Default::default(), now).await.unwrap();
    }

    async fn day(&mut self, day: usize) {
        for repository in 0..REPOSITORIES {
            // Each library changes once in three weeks.
            if (day + repository).is_multiple_of(21) {
                self.repositories[repository].library = self.library();
            }
            self.push(repository, "main").await;
            // Each repository has a pull request every ten days, which is pushed to twice and closed on the fifth day.
            let (of_ten, number) = ((day + 3 * repository) % 10, (day + 3 * repository) / 10);
            let branch = format!("pull-{number}");
            match of_ten {
                0 | 2 => self.push(repository, &branch).await,
                4 => self.drop(repository, &branch).await,
                _ => {}
            }
            self.world.pass(HOUR);
            if repository == REPOSITORIES / 2 {
                sweep(&self.world.service).await.unwrap();
            }
        }
        self.world.pass(4 * HOUR);
        sweep(&self.world.service).await.unwrap();
        take_sample(&self.world.service).await.unwrap();
    }

    /// The newest closure of each branch is there, to the last byte, for a service that knows nothing and notes nothing.
    async fn check(&self) {
        let fresh = self.world.beside().await;
        for base in &self.base {
            assert!(fresh.has(base).await, "a path that all closures need is gone");
        }
        for Repository { name, library, newest, .. } in &self.repositories {
            for (branch, top) in newest {
                assert!(fresh.has(top).await, "the newest of {name} {branch} is gone");
            }
            assert!(fresh.has(library).await, "the library of {name} is gone");
        }
        fresh.service.metadata.close().await;
    }
}

#[tokio::test]
async fn the_store_stays_below_its_budget_and_every_newest_closure_is_there() {
    let picture = std::env::var_os(PICTURE);
    let days = DAYS[usize::from(picture.is_some())];
    let mut year = Year::begin().await;
    let (mut held, mut files) = (Vec::new(), Vec::new());
    for day in 0..days {
        year.day(day).await;
        let whole = year.world.service.metadata.samples("", "", 0).await.unwrap().pop().unwrap();
        let chunks = year.world.service.metadata.stored().await.unwrap();
        held.push((whole.taken_at, chunks.values().map(|one| one.chunk_bytes).sum::<u64>()));
        files.push((whole.taken_at, whole.held.stored_bytes.unwrap()));
        assert!(held[held.len() - 1].1 <= BUDGET, "on day {day} there are {held:?}");
        if day % 30 == 2 {
            year.check().await;
            thin(&year.world.service).await.unwrap();
        }
    }
    year.check().await;
    println!("{}", chart(&held));
    println!("{} bytes were pushed in {} runs, {} refused at first", year.pushed, year.runs, year.refused);
    println!("at the end {:?} held, {:?} in files", held.last(), files.last());
    assert!(year.pushed > BUDGET, "nothing had to go");
    let [counted, told] = crate::samples::counted_and_told(&year.world.service.metadata).await;
    assert_eq!(counted, told);
    if days > 30 {
        // After the first month it neither grows nor shrinks.
        assert_eq!(trend(&held[30..], Some(BUDGET)).state, State::Steady);
    }
    if let Some(file) = picture {
        std::fs::write(file, picture::svg(&held, &files, BUDGET)).unwrap();
    }
}
