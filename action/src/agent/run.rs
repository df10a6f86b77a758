//! `larder agent run`: the relay, the job's mark in the store, and the agent's own end.

use std::{
    io::{self, BufRead as _, Read as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use larder_protocol::api::{CacheInfo, Permission};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};

use super::{
    messages::{Finish, MAX_LINE, Order, Ready, Start, Started, Told, Trust, to_line},
    push::Work,
    service::{self, Known},
    trust,
};
use crate::{
    output,
    relay::{Pass, Patience, Relay},
    store::{Mark, NixStore, StoreError},
    workflow::stopped,
};

/// How long main may take to say what is to be done.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What a push may take beyond its own limit, before it is ended.
const OVERTIME: Duration = Duration::from_secs(5);

/// How long the agent waits for others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Between two looks for the marker.
    pub marker: Duration,
    /// For a push whose orderer is gone, to come to its end.
    pub grace: Duration,
    /// For another order, when one was carried out and nobody removed the agent.
    pub afterwards: Duration,
}

impl Default for Limits {
    /// A cancelled job ends within a minute: `grace` and `afterwards` come to less.
    fn default() -> Self {
        Self {
            marker: Duration::from_secs(5),
            grace: Duration::from_secs(45),
            afterwards: Duration::from_secs(10),
        }
    }
}

/// Where the agent finds things, and how patient it is; tests have other places.
#[derive(Debug, Clone)]
pub struct Places {
    /// What has the host's `/nix`, `/etc/nix`, … below it.
    pub root: PathBuf,
    /// The socket for orders.
    pub socket: PathBuf,
    /// The marker.
    pub marker: PathBuf,
    /// The program to run `agent push` with.
    pub program: PathBuf,
    /// How long it waits.
    pub limits: Limits,
}

impl Places {
    /// Those of the sibling container.
    pub fn of_container() -> Self {
        Self {
            root: "/".into(),
            socket: super::SOCKET.into(),
            marker: Path::new(super::MARKER_DIR).join(super::MARKER),
            program: "/proc/self/exe".into(),
            limits: Limits::default(),
        }
    }
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nobody said what to do.
    #[error("nothing to do came by standard input")]
    NoStart,
    /// Something else was said.
    #[error("what came by standard input cannot be read; are action and agent of one version?")]
    StrangeStart,
    /// The socket cannot be made.
    #[error("cannot listen for orders: {0}")]
    Socket(io::Error),
}

struct Agent {
    places: Places,
    start: Start,
    mark: Option<Mark>,
    cache: Option<CacheInfo>,
    relay: Option<Relay>,
    pass: Option<Pass>,
    may_push: bool,
}

/// Runs until its work is done, its marker vanishes, its lifetime is over, or it is told to stop.
///
/// # Errors
/// When it cannot start; that is also said on standard output.
pub async fn run(places: Places) -> Result<(), RunError> {
    let (agent, listener, ready) = match prepare(places).await {
        Ok(prepared) => prepared,
        Err(error) => {
            tell(&Started::Failed(error.to_string()));
            return Err(error);
        }
    };
    tell(&Started::Ready(Box::new(ready)));
    let lifetime = Duration::from_secs(agent.start.lifetime);
    tokio::select! {
        () = agent.obey(&listener) => tracing::info!("the work is done"),
        () = agent.marker_vanishes() => tracing::info!("the job's marker is gone"),
        () = sleep(lifetime) => tracing::info!("the lifetime is over"),
        () = stopped() => tracing::info!("stopped"),
    }
    agent.stop_reading().await;
    Ok(())
}

fn tell(started: &Started) {
    if let Ok(line) = to_line(started) {
        output::raw(line.trim_end());
    }
}

async fn prepare(places: Places) -> Result<(Agent, UnixListener, Ready), RunError> {
    let start = read_start().await?;
    // Before anything else: what is built from now on belongs to the job.
    let (mark, store_problem) = match mark(&places.root).await {
        Ok(mark) => (Some(mark), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let trust = trust::find_out(&places.root, start.user);
    let Known { cache, permissions, pass } = service::find_cache(&start).await;
    let relay = match (&cache, &trust) {
        (Ok(cache), Trust::Trusted | Trust::Unknown) if start.relay && (cache.public || pass.is_some()) => {
            let upstream = service::cache_url(&start.service, &cache.name);
            Relay::start(upstream, pass.clone(), Patience::default())
                .await
                .inspect_err(|error| tracing::warn!(%error, "no relay"))
                .ok()
        }
        _ => None,
    };
    if let Some(pass) = pass.as_ref().filter(|_| relay.is_none()) {
        pass.end_session().await;
    }
    let listener = UnixListener::bind(&places.socket).map_err(RunError::Socket)?;
    let url = relay.as_ref().map(|relay| relay.url().clone());
    let may_push = permissions.as_ref().is_none_or(|permissions| permissions.contains(&Permission::Push));
    let agent = Agent { places, start, mark, cache: cache.as_ref().ok().cloned(), relay, pass, may_push };
    Ok((agent, listener, Ready { store_problem, cache, permissions, trust, relay: url }))
}

/// The newest row. Nix makes its database when it is first used: until then all that comes is the job's.
async fn mark(root: &Path) -> Result<Mark, StoreError> {
    match NixStore::open(root).await {
        Ok(store) => store.high_water_mark().await,
        Err(StoreError::NoDatabase(_)) => Ok(Mark::default()),
        Err(error) => Err(error),
    }
}

/// Reads the first line of standard input, on a thread of its own: it cannot be given up otherwise.
async fn read_start() -> Result<Start, RunError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().take(1 << 20).read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    match timeout(START_LIMIT, receiver).await {
        Ok(Ok(Ok(line))) if !line.is_empty() => {
            serde_json::from_str(&line).map_err(|_| RunError::StrangeStart)
        }
        _ => Err(RunError::NoStart),
    }
}

impl Agent {
    async fn marker_vanishes(&self) {
        if !self.start.marker {
            return std::future::pending().await;
        }
        while tokio::fs::try_exists(&self.places.marker).await.unwrap_or(false) {
            sleep(self.places.limits.marker).await;
        }
    }

    /// Takes orders one after the other. Ends some seconds after one was carried out; at once if whoever gave it is
    /// gone, since a cancelled job orders nothing more.
    async fn obey(&self, listener: &UnixListener) {
        let mut accepted = listener.accept().await;
        loop {
            match accepted {
                Ok((stream, _)) => {
                    if !self.take_order(stream).await {
                        return;
                    }
                }
                Err(error) => return tracing::warn!(%error, "cannot take an order"),
            }
            match timeout(self.places.limits.afterwards, listener.accept()).await {
                Ok(next) => accepted = next,
                Err(_) => return,
            }
        }
    }

    /// Carries out an order. Whether whoever gave it was there to the end.
    async fn take_order(&self, stream: UnixStream) -> bool {
        let (read, mut answers) = stream.into_split();
        let mut orders = BufReader::new(read.take(MAX_LINE));
        let mut line = String::new();
        let order = match timeout(START_LIMIT, orders.read_line(&mut line)).await {
            Ok(Ok(_)) => serde_json::from_str::<Order>(&line).ok(),
            _ => None,
        };
        match order {
            Some(Order::Finish(finish)) => {
                let is_gone = AtomicBool::new(false);
                let gone = async {
                    // Nothing more is said on this side; its end means that who ordered is gone.
                    let mut rest = Vec::new();
                    let _ = orders.read_to_end(&mut rest).await;
                    is_gone.store(true, Ordering::Relaxed);
                };
                self.finish(finish, gone, &mut answers).await;
                !is_gone.load(Ordering::Relaxed)
            }
            None => {
                answer(&mut answers, &Told::Failed("the order cannot be read".into())).await;
                true
            }
        }
    }

    /// Gives the session back by which the relay read, if any. Whoever reads once more gets another.
    async fn stop_reading(&self) {
        if let Some(pass) = &self.pass {
            pass.end_session().await;
        }
    }

    /// Has the child push, and passes on what it tells.
    async fn finish(&self, finish: Finish, gone: impl Future<Output = ()>, answers: &mut OwnedWriteHalf) {
        let limit = Duration::from_secs(finish.seconds) + OVERTIME;
        if !self.may_push {
            return answer(answers, &Told::Nothing).await;
        }
        let Some(mark) = self.mark else {
            return answer(answers, &Told::Failed("the store's database could not be read".into())).await;
        };
        let work = Work { start: self.start.clone(), mark, cache: self.cache.clone(), finish };
        let (mut child, told) = match self.begin_push(&work).await {
            Ok(begun) => begun,
            Err(error) => {
                return answer(answers, &Told::Failed(format!("cannot start what pushes: {error}"))).await;
            }
        };
        let ended = tokio::select! {
            ended = self.pass_on(told, answers) => ended,
            () = sleep(limit) => Some("it took too long (input `time-limit`)".to_owned()),
            () = async { gone.await; sleep(self.places.limits.grace).await } => return,
        };
        if let Some(reason) = ended {
            let _ = child.start_kill();
            let status = timeout(OVERTIME, child.wait()).await;
            tracing::warn!(reason, ?status, "the push failed");
            answer(answers, &Told::Failed(reason)).await;
        }
    }

    async fn begin_push(&self, work: &Work) -> io::Result<(Child, ChildStdout)> {
        let mut child = Command::new(&self.places.program)
            .args(["agent", "push", "--root"])
            .arg(&self.places.root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let line = to_line(work)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(line.as_bytes()).await?;
        }
        let told = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        Ok((child, told))
    }

    /// Passes on what the child tells, until its last word; why it failed, if it had none.
    async fn pass_on(&self, told: ChildStdout, answers: &mut OwnedWriteHalf) -> Option<String> {
        let mut lines = BufReader::new(told);
        let mut line = String::new();
        loop {
            line.clear();
            match (&mut lines).take(MAX_LINE).read_line(&mut line).await {
                Ok(1..) => {}
                _ => return Some("what pushes ended without a word; was it out of memory?".into()),
            }
            let Ok(mut told) = serde_json::from_str::<Told>(&line) else { continue };
            let last = !matches!(told, Told::Note(_));
            if let Told::Done(report) = &mut told {
                report.relay = self.relay.as_ref().map(Relay::usage);
                // Also where nothing was pushed.
                let own = self.cache.iter().map(|cache| &cache.name).find(|name| name.isolation().is_some());
                report.isolated = report.isolated.take().or_else(|| own.cloned());
            }
            answer(answers, &told).await;
            if last {
                return None;
            }
        }
    }
}

/// Who ordered may be gone: then nobody hears it, and the work goes on.
async fn answer(answers: &mut OwnedWriteHalf, told: &Told) {
    if let Ok(line) = to_line(told) {
        let _ = answers.write_all(line.as_bytes()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::workflow::inputs::What;

    /// An agent in a directory of its own, whose child is this shell script.
    fn agent(dir: &Path, script: &str) -> (Agent, UnixListener) {
        let program = dir.join("larder");
        std::fs::write(&program, format!("#!/bin/sh\n{script}")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let limits = Limits {
            marker: Duration::from_millis(20),
            grace: Duration::from_millis(50),
            afterwards: Duration::from_millis(50),
        };
        let (socket, marker) = (dir.join("agent.sock"), dir.join("running"));
        let start = Start {
            service: "http://127.0.0.1:1".parse().unwrap(),
            cache: "main".parse().unwrap(),
            pull_request: false,
            identity: None,
            push: true,
            what: What::Built,
            shared: false,
            relay: false,
            user: 0,
            lifetime: 60,
            marker: true,
            level: 3,
            max_body: None,
        };
        let listener = UnixListener::bind(&socket).unwrap();
        let places = Places { root: dir.into(), socket, marker, program, limits };
        (
            Agent {
                places,
                start,
                mark: Some(Mark(7)),
                cache: None,
                relay: None,
                pass: None,
                may_push: true,
            },
            listener,
        )
    }

    /// Orders a push; gives all that is told.
    async fn order(agent: &Agent) -> Vec<Told> {
        let mut stream = UnixStream::connect(&agent.places.socket).await.unwrap();
        let order = to_line(&Order::Finish(Finish { paths: None, seconds: 60 })).unwrap();
        stream.write_all(order.as_bytes()).await.unwrap();
        let (mut lines, mut told) = (BufReader::new(stream).lines(), Vec::new());
        while let Some(line) = lines.next_line().await.unwrap() {
            told.push(serde_json::from_str(&line).unwrap());
        }
        told
    }

    #[tokio::test]
    async fn what_the_child_tells_is_passed_on_to_its_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let script = "read work; echo \"$work\" > $4/work\n\
            echo '{\"note\":\"one\"}'; echo 'no JSON'; echo '{\"failed\":\"two\"}'; echo '{\"note\":\"three\"}'";
        let (agent, listener) = agent(dir.path(), script);
        let ((), told) = tokio::join!(agent.obey(&listener), order(&agent));
        assert!(
            matches!(&told[..], [Told::Note(one), Told::Failed(two)] if one == "one" && two == "two"),
            "{told:?}"
        );
        let work: Work = serde_json::from_slice(&std::fs::read(dir.path().join("work")).unwrap()).unwrap();
        assert_eq!((work.mark, work.finish.seconds), (Mark(7), 60));
    }

    #[tokio::test]
    async fn a_child_that_dies_is_a_failure_and_the_next_order_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, listener) = agent(dir.path(), "read work; echo '{\"note\":\"one\"}'; kill -9 $$");
        let twice = async { (order(&agent).await, order(&agent).await) };
        let ((), (first, second)) = tokio::join!(agent.obey(&listener), twice);
        for told in [first, second] {
            assert!(matches!(&told[..], [Told::Note(_), Told::Failed(_)]), "{told:?}");
        }
    }

    #[tokio::test]
    async fn when_who_ordered_is_gone_the_child_is_ended_after_a_grace() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, listener) = agent(dir.path(), "read work; echo '{\"note\":\"one\"}'; exec sleep 600");
        let gone = async {
            let mut stream = UnixStream::connect(&agent.places.socket).await.unwrap();
            let order = to_line(&Order::Finish(Finish { paths: None, seconds: 60 })).unwrap();
            stream.write_all(order.as_bytes()).await.unwrap();
            let mut note = [0; 4];
            stream.read_exact(&mut note).await.unwrap();
        };
        tokio::join!(agent.obey(&listener), gone);
    }

    #[tokio::test]
    async fn an_order_that_makes_no_sense_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, listener) = agent(dir.path(), "");
        let nonsense = async {
            let mut stream = UnixStream::connect(&agent.places.socket).await.unwrap();
            stream.write_all(b"{\"dance\":{}}\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(agent.obey(&listener), nonsense);
        assert!(answer.contains("the order cannot be read"), "{answer}");
    }

    #[tokio::test]
    async fn the_marker_ends_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, _listener) = agent(dir.path(), "");
        std::fs::write(&agent.places.marker, "").unwrap();
        let remove = async { std::fs::remove_file(&agent.places.marker).unwrap() };
        tokio::join!(agent.marker_vanishes(), remove);
    }
}
