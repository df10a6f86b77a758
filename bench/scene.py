"""What bench/run sets up: the service, nginx, readers, scratch stores; all below one scratch directory."""

import contextlib
import ctypes
import hmac
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


def namespaces_of_our_own():
    """A loopback on which nobody else talks, so that its bytes can be counted and every port is free; and mounts
    that end with the bench."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no namespaces of our own: bench/run must be root")
    run("ip", "link", "set", "lo", "up")
    run("mount", "--make-rprivate", "/")


def bytes_on_the_wire():
    """What went over the loopback so far, in both directions, with all headers."""
    loopback = next(line for line in open("/proc/net/dev") if line.strip().startswith("lo:"))
    return int(loopback.split()[1])


def run(*command, env=None, timeout=600, **options):
    """Runs a program to its end and returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout,
        **options,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))[:300]}\nfailed: {done.stderr[-2000:]}")
    return done.stdout


def seconds(action, *arguments):
    began = time.monotonic()
    action(*arguments)
    return time.monotonic() - began


def hashes(paths, file):
    """Writes the paths' hashes, one a line."""
    file.write_text("".join(path.removeprefix("/nix/store/")[:32] + "\n" for path in paths))
    return file


def stored(directory):
    """The sum of all files' lengths."""
    return sum(file.stat().st_size for file in pathlib.Path(directory).rglob("*") if file.is_file())


class Server:
    """A process that listens, ended with the `with` block."""

    def start(self, *command, env=None, log):
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **(env or {})},
                # Some end when it does.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Larderd(Server):
    """The service, on a data directory of its own, and where `servers` are given on a database there and an S3 server of
    its own; with a token to push."""

    def __init__(self, programs, directory, log="info", servers=None, **variables):
        self.programs, self.data, self.log = programs, directory / "data", directory / "log"
        directory.mkdir(parents=True, exist_ok=True)
        self.env = {"LARDER_DATA_DIR": str(self.data), "LARDER_LISTEN": "127.0.0.1:0", "LARDER_LOG": log}
        self.env |= variables
        self.s3 = None
        if servers:
            self.env |= servers.database(directory.name)
            self.s3 = servers.s3(directory / "s3")
            self.env |= self.s3.env
        self.begin()
        self.token = self.run("token", "create", "bench").strip()

    def begin(self):
        """Starts it on what it keeps."""
        self.start(self.programs / "larderd", env=self.env, log=self.log)
        first = self.process.stdout.readline()
        self.service = first.split()[-1] if first else ""
        if not self.service.startswith("http://"):
            raise SystemExit(f"larderd does not start: {self.log.read_text()[-2000:]}")
        self.cache = f"{self.service}/main"

    def end(self):
        """Stops it; what it keeps stays."""
        super().__exit__()

    def __exit__(self, *_):
        self.end()
        run("rm", "-rf", self.data)
        if self.s3:
            self.s3.__exit__()
            run("rm", "-rf", self.s3.directory)

    def stored(self):
        """What it keeps, in bytes."""
        return stored(self.data) + (stored(self.s3.objects) if self.s3 else 0)

    def run(self, *command, **options):
        """Another call of the same program, on the same data."""
        return run(self.programs / "larderd", *command, env=self.env, **options)

    def forget_peak(self):
        """From now on peak_memory() tells what was most since now."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def push(self, path, store="/"):
        env = {"LARDER_TOKEN": self.token, "LARDER_SERVICE": self.service}
        run(self.programs / "larder", "push", "--store", store, path, env=env)

    def prefetch(self, path):
        env = {"LARDER_TOKEN": self.token, "LARDER_SERVICE": self.service}
        run(self.programs / "larder", "prefetch", "--wait", path, env=env)

    def peak_memory(self):
        """The most that was resident, pages of mapped files included."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024


class Nginx(Server):
    """nginx over a directory, as a static binary cache would be served."""

    def __init__(self, directory, root, port=8000):
        directory.mkdir()
        (directory / "nginx.conf").write_text(f"""
            daemon off; pid {directory}/pid; error_log {directory}/log; worker_processes 2; user root;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; sendfile on; log_not_found off; keepalive_requests 1000000000;
                client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
                uwsgi_temp_path {directory}; scgi_temp_path {directory};
                server {{ listen 127.0.0.1:{port}; root {root}; }}
            }}""")
        self.start("nginx", "-c", directory / "nginx.conf", log=directory / "stderr")
        self.cache = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 10
        while subprocess.run(["curl", "-so", "/dev/null", self.cache]).returncode != 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"nginx does not start: {(directory / 'log').read_text()}")


class Nix:
    """Nix's command line, with caches of its own so that no answer is remembered."""

    def __init__(self, scratch):
        self.scratch, self.count = scratch, 0
        # What reads does not wait for its disk: it is the server that is measured.
        self.memory = self.fresh("memory")
        run("mount", "-t", "tmpfs", "none", self.memory)

    def fresh(self, name):
        self.count += 1
        directory = self.scratch / f"{name}-{self.count}"
        directory.mkdir()
        return directory

    def __call__(self, *command):
        home = self.fresh("home")
        env = {"XDG_CACHE_HOME": home, "HOME": home, "NIX_CONFIG": "experimental-features = nix-command"}
        return run(*command, env={name: str(value) for name, value in env.items()})

    def copy_to(self, directory, path, more=""):
        url = f"file://{directory}?compression=zstd&parallel-compression=true{more}"
        self("nix", "copy", "--to", url, path)

    def copy_from(self, cache, path):
        """Into an empty store, in memory."""
        store = self.memory / "store"
        self("nix", "copy", "--no-check-sigs", "--from", cache, "--to", f"local?root={store}", path)
        run("chmod", "-R", "u+w", store)
        run("rm", "-rf", store)

    def copy_between(self, cache, directory, path, public_key):
        """From a cache into a directory, as a mirror of it is made."""
        url = f"file://{directory}?compression=zstd&parallel-compression=true"
        trusted = ("--option", "trusted-public-keys", public_key)
        self("nix", "copy", *trusted, "--from", cache, "--to", url, path)

    def closure(self, path, store="/"):
        return self("nix-store", "--store", f"local?root={store}", "--query", "--requisites", path).split()

    def store_of_tiny_paths(self, count):
        """A store with a closure of so many small paths, each referring to the one before, and its root."""
        store = self.fresh("tiny")
        chain = f'builtins.foldl\' (below: n: builtins.toFile "n${{n}}" "above ${{below}}\\n") "nothing" ' + (
            f"(builtins.genList toString {count})"
        )
        root = self(
            *("nix-instantiate", "--eval", "--read-write-mode", "--store", f"local?root={store}", "--option", "fsync-metadata", "false"),
            *("--expr", chain),
        )
        return store, root.strip().strip('"')

    def store_of_noise(self, count, size):
        """A store with so many files of so many bytes, none of which resembles another, and their paths."""
        store, files = self.fresh("noise"), self.fresh("files")
        for number in range(count):
            with open(files / f"noise-{number}", "wb") as file:
                for _ in range(size >> 20):
                    file.write(os.urandom(1 << 20))
        paths = []
        for file in sorted(files.iterdir()):
            paths += self("nix-store", "--store", f"local?root={store}", "--add", file).split()
            file.unlink()
        return store, paths


# What the deliveries below are signed with.
SECRET = "a secret for measuring alone"


def deliver(service, duration=120, during=None):
    """Delivers one webhook under ever new names on 32 connections, see deliveries.lua. Returns as wrk() does."""
    body = json.dumps({"ref": "topic", "ref_type": "branch", "repository": {"full_name": "acme/flake"}, "more": "x" * 8000})
    signature = hmac.new(SECRET.encode(), body.encode(), "sha256").hexdigest()
    return load("deliveries.lua", f"{service.service}/webhooks/github", signature, body, duration=duration, during=during)


def multiply_paths(service, servers, count):
    """Adds so many rows of paths that nobody pushed, whose hashes are random, to the database of a service that is stopped."""
    columns = "name, push, nar_hash, nar_size, nar, refs, signatures"
    into = f"INSERT INTO paths (cache, hash, {columns}) SELECT cache,"
    one = "FROM (SELECT * FROM paths LIMIT 1) AS one,"
    if servers:
        random = "decode(md5(n::text) || left(md5((-n)::text), 8), 'hex')"
        servers.sql(service.data.parent.name, f"{into} {random}, {columns} {one} generate_series(1, {count}) AS n; ANALYZE")
        return
    with contextlib.closing(sqlite3.connect(service.data / "larder.db")) as database, database:
        database.execute("PRAGMA cache_size = -1000000")
        numbers = f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"
        database.execute(f"{numbers} {into} randomblob(20), {columns} {one} numbers")


def wrk(cache, mode, hashes="", duration=120, during=None):
    """Asks for narinfos on 32 connections, see wrk.lua, for so many seconds or until `during` is done. Returns
    rate, p99 in milliseconds, and how many were refused and how many failed."""
    return load("wrk.lua", cache, mode, str(hashes), duration=duration, during=during)


def load(script, url, *arguments, duration, during):
    process = subprocess.Popen(
        ["wrk", "-t2", "-c32", f"-d{duration}s", "-s", HERE / script, url, "--", *arguments],
        text=True,
        stdout=subprocess.PIPE,
    )
    try:
        if during:
            during()
            # It stops and sums up.
            process.send_signal(signal.SIGINT)
        printed = process.communicate()[0]
    finally:
        process.kill()
    return json.loads(printed.splitlines()[-1])


def download(url):
    """How long one NAR takes."""
    return float(run("curl", "-sfo", "/dev/null", "-w", "%{time_total}", url))
