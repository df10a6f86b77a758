//! GitHub's runner: the `docker run` by which it starts each stage of a container action, word for word; and act,
//! which runs whole workflows.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    github::{GitHub, Job, StartedJob},
    nix::{Output, run, unique},
    programs::{action_image, repository, tool},
};

/// A stage of the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Where the workflow has its step.
    Main,
    /// At the job's end.
    Post,
}

/// A stage that has run.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it said.
    pub log: String,
    /// Its outputs.
    pub outputs: BTreeMap<String, String>,
    /// What it added to the job's summary.
    pub summary: String,
}

/// One job on a runner of its own: its directories, and what its steps have set.
pub struct RunnerJob {
    work: TempDir,
    job: Job,
    inputs: BTreeMap<String, String>,
    identity: Option<(String, String)>,
    /// What steps wrote to `$GITHUB_ENV`.
    environment: BTreeMap<String, String>,
    /// What main wrote to `$GITHUB_STATE`.
    state: BTreeMap<String, String>,
    has_docker: bool,
}

impl RunnerJob {
    /// A job that cannot ask for ID tokens, as those of a fork's pull request. The action's inputs have the values
    /// that action.yml gives them.
    pub fn without_identity(job: Job) -> Self {
        let work = TempDir::new().unwrap();
        for dir in
            ["_temp/_github_home", "_temp/_github_workflow", "_temp/_runner_file_commands", "flake/flake"]
        {
            fs::create_dir_all(work.path().join(dir)).unwrap();
        }
        Self {
            work,
            job,
            inputs: default_inputs(),
            identity: None,
            environment: BTreeMap::new(),
            state: BTreeMap::new(),
            has_docker: true,
        }
    }

    /// A job with `permissions: id-token: write`.
    pub fn new(started: &StartedJob) -> Self {
        let mut this = Self::without_identity(started.job.clone());
        this.identity = Some((started.request_url.clone(), started.request_token.clone()));
        this
    }

    /// The job on a runner that has no Docker socket to mount.
    #[must_use]
    pub fn without_docker(mut self) -> Self {
        self.has_docker = false;
        self
    }

    /// Sets an input.
    #[must_use]
    pub fn with(mut self, input: &str, value: &str) -> Self {
        assert!(self.inputs.contains_key(input), "action.yml has no input {input}");
        self.inputs.insert(input.to_owned(), value.to_owned());
        self
    }

    /// Does what a step does that writes to `$GITHUB_ENV`.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// A variable that a step has written to `$GITHUB_ENV`.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// What main left for post.
    pub fn state(&self, name: &str) -> Option<&str> {
        self.state.get(name).map(String::as_str)
    }

    /// The checked-out repository.
    pub fn workspace(&self) -> PathBuf {
        self.work.path().join("flake/flake")
    }

    /// All that the runner keeps of the job on the disk: its workspace, `_temp`, and what steps have said there.
    pub fn directory(&self) -> &Path {
        self.work.path()
    }

    /// A later step's command, which sees what earlier steps have set.
    pub fn step(&self, program: &str) -> Command {
        let mut command = crate::nix::command(program, &self.work.path().join("home"));
        command.env_remove("NIX_CONFIG").envs(&self.environment).current_dir(self.workspace());
        command
    }

    /// Runs a stage.
    pub async fn run(&mut self, stage: Stage) -> Ran {
        let files = CommandFiles::new(self.work.path());
        let output = run(&mut self.docker_run(stage, &files, &unique("larder-action")).await).await;
        let ran = files.read(&output);
        self.environment.extend(parse(&files.text("set_env")));
        if stage == Stage::Main {
            self.state = parse(&files.text("save_state"));
        }
        ran
    }

    /// Begins a stage, in a container of this name, and lets the test end it.
    pub async fn begin(&mut self, stage: Stage, container: &str) -> tokio::process::Child {
        let files = CommandFiles::new(self.work.path());
        let mut command = self.docker_run(stage, &files, container).await;
        command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap()
    }

    /// Ends the job as the runner does: what lies in `_temp` is removed.
    pub fn clean_up(&self) {
        for entry in fs::read_dir(self.temp()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// The containers that this job's action has started and that still run.
    pub async fn agents(&self) -> Vec<String> {
        let output = run(&mut self.list_agents()).await.expect_success();
        output.lines().map(str::to_owned).collect()
    }

    fn list_agents(&self) -> Command {
        let mut list = Command::new("docker");
        let label = format!("label=larder.temp={}", self.temp().display());
        list.args(["ps", "--all", "--quiet", "--no-trunc", "--filter", &label]);
        list
    }

    fn temp(&self) -> PathBuf {
        self.work.path().join("_temp")
    }

    /// `docker run` as the runner's `ContainerActionHandler` and `DockerCommandManager` put it together: every
    /// variable by its name alone, so that no value is seen in the list of processes.
    async fn docker_run(&self, stage: Stage, files: &CommandFiles, name: &str) -> Command {
        let mut variables = self.environment.clone();
        variables.extend(self.variables(files));
        variables.extend(self.state.iter().map(|(name, value)| (format!("STATE_{name}"), value.clone())));
        let mut command = Command::new("docker");
        command.args(["run", "--name", name, "--label", "3a5f1c", "--workdir", "/github/workspace", "--rm"]);
        for (name, value) in &variables {
            command.args(["-e", name]).env(name, value);
        }
        command.args(["-e", "GITHUB_ACTIONS=true", "-e", "CI=true"]);
        command.args(["--entrypoint", entry_point(stage).as_str()]);
        let temp = self.temp();
        let mut mounts = vec![
            (temp.clone(), "/github/runner_temp"),
            (temp.join("_github_home"), "/github/home"),
            (temp.join("_github_workflow"), "/github/workflow"),
            (temp.join("_runner_file_commands"), "/github/file_commands"),
            (self.workspace(), "/github/workspace"),
        ];
        if self.has_docker {
            mounts.insert(0, ("/var/run/docker.sock".into(), "/var/run/docker.sock"));
        }
        for (outside, inside) in mounts {
            command.arg("-v").arg(format!("{}:{inside}", outside.display()));
        }
        command.arg(action_image().await);
        command
    }

    fn variables(&self, files: &CommandFiles) -> BTreeMap<String, String> {
        let job = &self.job;
        let owner = job.repository.split('/').next().unwrap_or_default();
        let mut variables: BTreeMap<String, String> = [
            ("HOME", "/github/home"),
            ("GITHUB_JOB", "build"),
            ("GITHUB_ACTION", "__larder-nix_larder"),
            ("GITHUB_ACTION_REPOSITORY", "larder-nix/larder"),
            ("GITHUB_ACTION_REF", "v1"),
            ("GITHUB_ACTOR", &job.actor),
            ("GITHUB_API_URL", "https://api.github.com"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_EVENT_NAME", &job.event),
            ("GITHUB_EVENT_PATH", "/github/workflow/event.json"),
            ("GITHUB_REF", &job.git_ref),
            ("GITHUB_REPOSITORY", &job.repository),
            ("GITHUB_REPOSITORY_ID", &job.repository_id.to_string()),
            ("GITHUB_REPOSITORY_OWNER", owner),
            ("GITHUB_REPOSITORY_OWNER_ID", &job.owner_id.to_string()),
            ("GITHUB_RUN_ATTEMPT", &job.run_attempt.to_string()),
            ("GITHUB_RUN_ID", &job.run_id.to_string()),
            ("GITHUB_RUN_NUMBER", &job.run_number.to_string()),
            ("GITHUB_SHA", &job.sha),
            ("GITHUB_WORKFLOW", &job.workflow),
            ("GITHUB_WORKSPACE", "/github/workspace"),
            ("RUNNER_ARCH", "X64"),
            ("RUNNER_ENVIRONMENT", "github-hosted"),
            ("RUNNER_NAME", "GitHub Actions 7"),
            ("RUNNER_OS", "Linux"),
            ("RUNNER_TEMP", "/github/runner_temp"),
            ("RUNNER_TOOL_CACHE", "/opt/hostedtoolcache"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (variable, file) in FILES {
            variables.insert(variable.to_owned(), format!("/github/file_commands/{}", files.name(file)));
        }
        for (name, value) in &self.inputs {
            variables.insert(format!("INPUT_{}", name.to_uppercase().replace(' ', "_")), value.clone());
        }
        if let Some((url, token)) = &self.identity {
            variables.insert("ACTIONS_ID_TOKEN_REQUEST_URL".to_owned(), url.clone());
            variables.insert("ACTIONS_ID_TOKEN_REQUEST_TOKEN".to_owned(), token.clone());
        }
        variables
    }
}

impl Drop for RunnerJob {
    fn drop(&mut self) {
        let Ok(found) = self.list_agents().into_std().output() else { return };
        for agent in String::from_utf8_lossy(&found.stdout).lines() {
            let mut remove = std::process::Command::new("docker");
            let _ = remove.args(["rm", "--force", agent]).stdout(std::process::Stdio::null()).status();
        }
    }
}

/// The files of one stage by which it gives the runner orders.
struct CommandFiles {
    dir: PathBuf,
    id: String,
}

const FILES: [(&str, &str); 5] = [
    ("GITHUB_ENV", "set_env"),
    ("GITHUB_OUTPUT", "set_output"),
    ("GITHUB_PATH", "add_path"),
    ("GITHUB_STATE", "save_state"),
    ("GITHUB_STEP_SUMMARY", "step_summary"),
];

impl CommandFiles {
    fn new(work: &Path) -> Self {
        let mut id = [0; 8];
        getrandom::fill(&mut id).unwrap();
        let files = Self { dir: work.join("_temp/_runner_file_commands"), id: HEXLOWER.encode(&id) };
        for (_, file) in FILES {
            fs::write(files.dir.join(files.name(file)), "").unwrap();
        }
        files
    }

    fn name(&self, file: &str) -> String {
        format!("{file}_{}", self.id)
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(self.name(file))).unwrap()
    }

    fn read(&self, output: &Output) -> Ran {
        Ran {
            code: output.code.unwrap_or(-1),
            log: format!("{}{}", output.stdout, output.stderr),
            outputs: parse(&self.text("set_output")),
            summary: self.text("step_summary"),
        }
    }
}

/// Reads a file of `name=value` and `name<<delimiter` as the runner does.
fn parse(text: &str) -> BTreeMap<String, String> {
    let (mut values, mut lines) = (BTreeMap::new(), text.lines());
    while let Some(line) = lines.next() {
        let before = |mark: &str| line.find(mark).unwrap_or(usize::MAX);
        if before("<<") < before("=") {
            let (name, delimiter) = line.split_once("<<").unwrap();
            let mut value = Vec::new();
            loop {
                match lines.next().unwrap_or_else(|| panic!("no {delimiter} ends {name}")) {
                    end if end == delimiter => break,
                    part => value.push(part),
                }
            }
            values.insert(name.to_owned(), value.join("\n"));
        } else if let Some((name, value)) = line.split_once('=') {
            values.insert(name.to_owned(), value.to_owned());
        } else {
            assert!(line.is_empty(), "the runner would refuse the line {line:?}");
        }
    }
    values
}

/// action.yml, of which the tests need so little that lines will do.
fn action_yml() -> String {
    fs::read_to_string(repository().join("action.yml")).unwrap()
}

/// The inputs with their defaults. An expression's value is empty where there is no `container:`.
fn default_inputs() -> BTreeMap<String, String> {
    let text = action_yml();
    let mut inputs = BTreeMap::new();
    let mut last = None;
    for line in text.lines().skip_while(|line| *line != "inputs:").skip(1) {
        let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with([' ', '#']));
        match (name.and_then(|name| name.strip_suffix(':')), line.trim().strip_prefix("default: ")) {
            _ if !line.is_empty() && !line.starts_with(' ') => break,
            (Some(name), _) => {
                inputs.insert(name.to_owned(), String::new());
                last = Some(name.to_owned());
            }
            (None, Some(value)) if !value.contains("${{") => {
                inputs.insert(last.clone().unwrap(), value.trim_matches('\'').to_owned());
            }
            _ => {}
        }
    }
    inputs
}

fn entry_point(stage: Stage) -> String {
    let key = match stage {
        Stage::Main => "  entrypoint: ",
        Stage::Post => "  post-entrypoint: ",
    };
    action_yml().lines().find_map(|line| line.strip_prefix(key)).expect(key).to_owned()
}

/// The address of the host on the bridge that Docker puts containers on: its subnet's first.
pub async fn bridge() -> IpAddr {
    let mut inspect = Command::new("docker");
    inspect.args(["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}"]);
    let subnet = run(&mut inspect).await.expect_success();
    let first: Ipv4Addr = subnet.split('/').next().unwrap().parse().unwrap();
    Ipv4Addr::from(u32::from(first) + 1).into()
}

/// Starts a job whose containers reach the endpoint for ID tokens.
pub async fn start_job(github: &mut GitHub, job: Job) -> StartedJob {
    let bound = github.listen_also((bridge().await, 0).into()).await;
    let mut started = github.start_job(job);
    started.request_url = started.request_url.replace(github.issuer(), &format!("http://{bound}"));
    started
}

/// A repository with a workflow, run by act on this machine as on a self-hosted runner.
pub struct Workflow {
    dir: TempDir,
    /// What `uses:` says, and the folder that it means.
    actions: Vec<(String, PathBuf)>,
}

impl Workflow {
    /// A repository with this workflow, in which `uses: larder-nix/larder@v1` is this repository's action with the
    /// image under test, as a release's tag would name it.
    pub async fn new(yaml: &str) -> Self {
        let mut workflow = Self { dir: TempDir::new().unwrap(), actions: Vec::new() };
        workflow.write("repository/.github/workflows/build.yml", yaml);
        let image = action_image().await;
        let released = action_yml().replace("  image: Dockerfile\n", &format!("  image: docker://{image}\n"));
        assert!(released.contains(&image), "action.yml names no Dockerfile");
        workflow.action("larder-nix/larder@v1", &released);
        workflow
    }

    /// Adds an action that a workflow uses.
    pub fn action(&mut self, uses: &str, action_yml: &str) {
        let dir = format!("actions/{}", self.actions.len());
        self.write(&format!("{dir}/action.yml"), action_yml);
        self.actions.push((uses.to_owned(), self.dir.path().join(dir)));
    }

    /// Adds a file to the repository.
    pub fn add_file(&self, path: &str, text: &str) {
        self.write(&format!("repository/{path}"), text);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Commits, and runs the workflow for the job's event.
    pub async fn run(&self, job: &StartedJob) -> Output {
        let (repository, home) = (self.dir.path().join("repository"), self.dir.path().join("home"));
        self.write("home/.config/act/actrc", "");
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=rosa", "-c", "user.email=rosa@example.org", "-C"]).arg(&repository);
            git.args(arguments);
            git
        };
        for arguments in [
            &["init", "--quiet", "--initial-branch=main"][..],
            &["remote", "add", "origin", &format!("https://github.com/{}", job.job.repository)],
            &["add", "--all"],
            &["commit", "--quiet", "--message=Build"],
        ] {
            run(&mut git(arguments)).await.expect_success();
        }
        // What act makes for a container action lies on the host, under the host's path.
        let cache = home.join(".cache/act");
        fs::create_dir_all(&cache).unwrap();
        let mut act = Command::new(tool("act"));
        act.current_dir(&repository)
            .env_clear()
            .env("HOME", &home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args([
                &job.job.event,
                "-P",
                "ubuntu-latest=-self-hosted",
                "--pull=false",
                "--action-offline-mode",
            ])
            .args(["--no-cache-server", "--container-options", &format!("-v {0}:{0}", cache.display())])
            .args(["--env", &format!("ACTIONS_ID_TOKEN_REQUEST_URL={}", job.request_url)])
            .args(["--env", &format!("ACTIONS_ID_TOKEN_REQUEST_TOKEN={}", job.request_token)])
            .args(["--env", "RUNNER_ENVIRONMENT=github-hosted"]);
        for (uses, dir) in &self.actions {
            act.arg("--local-repository").arg(format!("{uses}={}", dir.display()));
        }
        run(&mut act).await
    }
}
