//! Days, or a year, of a store: twenty repositories that push every day, pull requests that come and go, and a budget. All
//! sizes are a hundredth of what they would be: 50 MB instead of 5 GB.
//!
//! With `LARDER_YEAR_SVG=$PWD/docs/year.svg` it is the whole year, most of an hour, and the curves are drawn there.

use std::sync::Arc;

use larder_protocol::StorePath;
use larder_service::{
    config::{ByteSize, Config},
    retention::{is_crowded, sweep},
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

const BUDGET: u64 = 50_000_000;
/// A year where its picture is asked for, which takes a while; else the days until the budget is full, and two more.
const DAYS: [usize; 2] = [5, 365];
const REPOSITORIES: usize = 20;
/// And whenever something is nearly full.
const SWEEP_EVERY: i64 = 12 * HOUR;
pub const TITLE: &str = "A year of 20 repositories that push every day (a hundredth of 5 GB)";
/// Where to write the picture, for docs/.
const PICTURE: &str = "LARDER_YEAR_SVG";

/// A number for each path that ever was.
fn path(number: u64) -> StorePath {
    let mut hash = [7; 20];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    StorePath::new(larder_protocol::StorePathHash(hash), "x").unwrap()
}

/// A repository with what all its branches need, and of each branch the closure that was pushed last.
struct Repository {
    name: String,
    id: u64,
    library: Arc<TestNar>,
    newest: Vec<(String, Closure)>,
}

type Closure = Vec<Arc<TestNar>>;

struct Year {
    world: World,
    /// What all repositories need.
    base: Closure,
    repositories: Vec<Repository>,
    /// How many paths there ever were, and how many runs.
    paths: u64,
    runs: u64,
    pushed: u64,
    /// Pushes for which there was no room until a sweep had made some.
    refused: u64,
    /// The most of this day that counted as used, and that its files had, in bytes: also before a sweep made room.
    most: [u64; 2],
    swept_at: i64,
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
            most: [0; 2],
            swept_at: 0,
        };
        year.base = year.base();
        for number in 0..REPOSITORIES {
            let library = year.library();
            let (name, id) = (format!("acme/flake-{number}"), 100 + number as u64);
            year.repositories.push(Repository { name, id, library, newest: Vec::new() });
        }
        year
    }

    fn nar(&mut self, contents: &[u8], references: &[&StorePath]) -> Arc<TestNar> {
        self.paths += 1;
        Arc::new(TestNar::new(path(self.paths), contents, references))
    }

    fn base(&mut self) -> Closure {
        let sizes = [1_500_000, 600_000, 200_000, 100_000];
        sizes.map(|size| self.nar(&contents(self.paths + 1, size, &[]), &[])).into()
    }

    fn library(&mut self) -> Arc<TestNar> {
        let references: Vec<StorePath> = self.base.iter().map(|base| base.info.path.clone()).collect();
        let contents = contents(1_000_000 + self.paths, 300_000, &[]);
        self.nar(&contents, &references.iter().collect::<Vec<_>>())
    }

    /// Builds a branch anew and pushes it with all that it needs.
    async fn push(&mut self, repository: usize, branch: &str) {
        // The first two thirds are always the same.
        let mut bytes = contents(3_000_000 + repository as u64, 500_000, &[]);
        bytes.extend(contents(2_000_000 + self.paths, 250_000, &[]));
        let library = self.repositories[repository].library.info.path.clone();
        let base = self.base[0].info.path.clone();
        let top = self.nar(&bytes, &[&library, &base]);
        self.runs += 1;
        let of = &self.repositories[repository];
        let job = self.world.job_of(&of.name, of.id, branch, self.runs).await;
        let closure: Closure = [&top, &of.library].into_iter().chain(&self.base).map(Arc::clone).collect();
        let paths: Vec<&TestNar> = closure.iter().map(|nar| &**nar).collect();
        if !self.world.try_push(&job, &paths).await {
            self.refused += 1;
            sweep(&self.world.service).await.unwrap();
            assert!(self.world.try_push(&job, &paths).await, "there is no room even after a sweep");
        }
        self.pushed += top.bytes.len() as u64;
        let newest = &mut self.repositories[repository].newest;
        newest.retain(|(name, _)| name != branch);
        newest.push((branch.to_owned(), closure));
        self.go_on(0).await;
    }

    /// So long later the service does what it does by itself, and what is left is within the budget.
    async fn go_on(&mut self, seconds: i64) {
        self.world.pass(seconds);
        let [used, files] = self.sizes().await;
        self.most = [self.most[0].max(used), self.most[1].max(files)];
        let is_due = self.swept_at + SWEEP_EVERY <= self.world.now();
        if is_due || is_crowded(&self.world.service).await.unwrap() {
            sweep(&self.world.service).await.unwrap();
            self.swept_at = self.world.now();
        }
        let [used, _] = self.sizes().await;
        assert!(used <= BUDGET, "{used} bytes are left");
    }

    /// What counts as used, and what the files have.
    async fn sizes(&self) -> [u64; 2] {
        let metadata = &self.world.service.metadata;
        let chunks: u64 = metadata.stored().await.unwrap().values().map(|one| one.chunk_bytes).sum();
        let files = metadata.object_bytes().await.unwrap() + metadata.doomed_bytes().await.unwrap();
        [chunks + metadata.recipe_bytes().await.unwrap(), files]
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
        // Four times a year everything is built on a new base.
        if day % 91 == 3 {
            self.base = self.base();
            for repository in 0..REPOSITORIES {
                self.repositories[repository].library = self.library();
            }
        }
        for repository in 0..REPOSITORIES {
            // Each library changes once in three weeks, too.
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
            self.go_on(HOUR).await;
        }
        self.go_on(4 * HOUR).await;
        take_sample(&self.world.service).await.unwrap();
    }

    /// The newest closure of each branch is there, to the last byte, for a service that knows nothing and notes nothing.
    async fn check(&self) {
        let fresh = self.world.beside().await;
        for Repository { name, newest, .. } in &self.repositories {
            for (branch, closure) in newest {
                for nar in closure {
                    assert!(
                        fresh.has(nar).await,
                        "{} of the newest of {name} {branch} is gone",
                        nar.info.path
                    );
                }
            }
        }
        fresh.service.metadata.close().await;
    }
}

#[tokio::test]
async fn the_store_stays_below_its_budget_and_every_newest_closure_is_there() {
    let picture = std::env::var_os(PICTURE);
    let days = DAYS[usize::from(picture.is_some())];
    let mut year = Year::begin().await;
    let (mut used, mut files) = (Vec::new(), Vec::new());
    for day in 0..days {
        year.day(day).await;
        let [most_used, most_in_files] = std::mem::take(&mut year.most);
        used.push((year.world.now(), most_used));
        files.push((year.world.now(), most_in_files));
        if day % 30 == 2 {
            year.check().await;
            thin(&year.world.service).await.unwrap();
        }
    }
    year.check().await;
    println!("{}", chart(&used));
    println!("{} bytes were pushed in {} runs, {} refused at first", year.pushed, year.runs, year.refused);
    let most = |sizes: &[(i64, u64)]| sizes.iter().map(|(_, bytes)| *bytes).max();
    println!("at most {:?} used, {:?} in files", most(&used), most(&files));
    assert!(year.pushed > BUDGET, "nothing had to go");
    let [counted, told] = crate::samples::counted_and_told(&year.world.service.metadata).await;
    assert_eq!(counted, told);
    if days > 30 {
        // After the first month it neither grows nor shrinks.
        assert_eq!(trend(&used[30..], Some(BUDGET)).state, State::Steady);
    }
    if let Some(file) = picture {
        std::fs::write(file, picture::svg(TITLE, &used, &files, BUDGET)).unwrap();
    }
}
