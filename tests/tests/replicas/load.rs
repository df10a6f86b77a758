//! Who pushes and who reads while parts fail, and what they saw.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use larder_tests::{
    github::{Job, StartedJob},
    larder::Push,
    package::{Node, Package, noise},
    source_store::{SourceStore, tree},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::scene::{Read, Site, read};

/// How long after a trouble all must go on again, at the very most.
const RECOVERED_WITHIN: Duration = Duration::from_secs(120);
/// Packages that several push.
const SHARED: usize = 4;

/// What was seen.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    pub pushes: usize,
    pub retries: usize,
    pub reads: usize,
    pub absent: usize,
    pub cut: usize,
    pub refused: usize,
    last_read: Option<Instant>,
    longest_gap: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pushes, retries, reads, absent, cut, refused, longest_gap, .. } = self;
        write!(
            f,
            "{pushes} pushes acknowledged, for which {retries} requests were repeated; {reads} reads right, {absent} \
             answered 404, {cut} cut off, {refused} answered 5xx; longest time without a read: {longest_gap:.1?}"
        )
    }
}

/// Clients under way.
pub struct Load {
    pub figures: watch::Sender<Figures>,
    /// What is acknowledged.
    pub acknowledged: Mutex<Vec<Package>>,
    stop: AtomicBool,
}

impl Load {
    /// So many who push and who read, until they are told to end.
    pub fn start(site: &Site, pushers: u64, readers: usize) -> (Arc<Self>, JoinSet<()>) {
        let load = Arc::new(Self {
            figures: watch::Sender::default(),
            acknowledged: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let shared: Arc<Vec<_>> = Arc::new(
            (0..SHARED).map(|number| tree(&format!("shared-{number}"), Node::File(noise(600_000)))).collect(),
        );
        let mut clients = JoinSet::new();
        for pusher in 0..pushers {
            let (url, load, shared) = (site.nginx.url(), load.clone(), shared.clone());
            let job = Job { run_id: 1000 + pusher, check_run_id: pusher, ..Job::default() };
            let job = site.github.start_job(job);
            clients.spawn(async move { load.push_on(&url, &job, &shared).await });
        }
        for reader in 0..readers {
            let (url, load) = (site.nginx.url(), load.clone());
            clients.spawn(async move { load.read_on(&url, reader).await });
        }
        (load, clients)
    }

    /// Has all end what they are at.
    pub async fn end(&self, mut clients: JoinSet<()>) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    }

    /// Waits until it has been seen that something fails.
    pub async fn until_it_hurts(&self, clients: &mut JoinSet<()>) {
        let before = self.figures.borrow().clone();
        self.until(clients, |now| now.absent + now.cut > before.absent + before.cut).await;
    }

    /// Waits until pushes and reads go well again, of each as many as there are clients or more.
    pub async fn until_all_goes_well(&self, clients: &mut JoinSet<()>) {
        let before = self.figures.borrow().clone();
        self.until(clients, |now| now.pushes >= before.pushes + 3 && now.reads >= before.reads + 20).await;
    }

    async fn until(&self, clients: &mut JoinSet<()>, holds: impl Fn(&Figures) -> bool) {
        let mut figures = self.figures.subscribe();
        let waiting = timeout(RECOVERED_WITHIN, figures.wait_for(holds));
        tokio::select! {
            waited = waiting => drop(waited.expect("it does not go on").unwrap()),
            Some(ended) = clients.join_next() => panic!("a client gave up: {:?}", ended.err()),
        }
    }

    /// Pushes closures, each a path of its own above one that others push, too.
    async fn push_on(&self, url: &str, job: &StartedJob, shared: &[(Package, Node)]) {
        let mut round = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let (library, its_node) = &shared[round % shared.len()];
            let (own, node) = tree("own", Node::File(noise(300_000)));
            let own = own.referring_to([library]);
            let source = SourceStore::new([(library.clone(), its_node.clone()), (own.clone(), node)]).await;
            let output = source.push(Push::in_job(url, job)).run().await;
            // It has tried again what had to be.
            assert!(output.success, "{}", output.stderr);
            self.acknowledged.lock().unwrap().extend([library.clone(), own]);
            self.figures.send_modify(|figures| {
                figures.pushes += 1;
                figures.retries +=
                    output.stderr.lines().filter(|line| line.contains("; trying again in ")).count();
            });
            round += 1;
        }
    }

    /// Reads what is acknowledged, over and over.
    async fn read_on(&self, url: &str, start: usize) {
        let http = reqwest::Client::new();
        let mut position = start;
        while !self.stop.load(Ordering::SeqCst) {
            let package = {
                let acknowledged = self.acknowledged.lock().unwrap();
                // By a step that has no common divisor with most lengths, so that all have their turn.
                position += 7919;
                acknowledged.get(position % acknowledged.len().max(1)).cloned()
            };
            let Some(package) = package else {
                // Until something is there.
                self.figures.subscribe().changed().await.unwrap();
                continue;
            };
            let read = read(&http, url, &package).await;
            self.figures.send_modify(|figures| match read {
                Read::Right => {
                    figures.reads += 1;
                    let now = Instant::now();
                    let gap = figures.last_read.replace(now).map_or(Duration::ZERO, |last| now - last);
                    figures.longest_gap = figures.longest_gap.max(gap);
                }
                Read::Absent => figures.absent += 1,
                Read::Cut => figures.cut += 1,
                Read::Refused(_) => figures.refused += 1,
            });
            if read != Read::Right {
                // As whoever asks again.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
