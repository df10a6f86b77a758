"""The servers below a service that does not keep all in files: PostgreSQL, and an S3 server."""

import datetime
import hashlib
import hmac
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.parse

from scene import Server, run


def cached_garage():
    """Garage's program as `scripts/test --s3` installs it, if it did."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return max(cache.glob("larder/garage-*/bin/garage"), default=None)


class Servers:
    """A PostgreSQL as it is by default, with a database for each who asks, and S3 servers: Garage by its program, else
    `larder-s3`, which the tests have."""

    def __init__(self, programs, garage=None):
        self.programs, self.garage, self.count = programs, garage, 0
        self.found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1]

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="larder-bench-servers-"))
        shutil.chown(self.directory, "postgres")
        self.directory.chmod(0o755)
        self.postgres("initdb", "-D", "data", "-A", "trust")
        more = f"-p 5432 -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.directory} -c max_connections=200"
        self.postgres("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", more, "start")
        return self

    def __exit__(self, *_):
        self.postgres("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        run("rm", "-rf", self.directory)

    def postgres(self, program, *words):
        # Its own standard output would stay open in the server.
        command = ["runuser", "-u", "postgres", "--", self.found / program, *words]
        with open(self.directory / "said", "wb") as said:
            subprocess.run([str(word) for word in command], cwd=self.directory, stdout=said, stderr=said, check=True, timeout=60)

    def sql(self, database, statement, timeout=3600):
        where = ["-h", "127.0.0.1", "-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1", "-Atqc"]
        return run(self.found / "psql", *where, statement, timeout=timeout)

    def database(self, name):
        """The environment of a service on a new database."""
        self.sql("postgres", f'CREATE DATABASE "{name}"')
        return {"LARDER_DATABASE_URL": f"postgres://postgres@127.0.0.1/{name}"}

    def s3(self, directory):
        """An S3 server over this folder."""
        self.count += 1
        port = 3900 + 2 * self.count
        return Garage(self.garage, directory, port) if self.garage else SmallS3(self.programs, directory, port)


class S3(Server):
    """An S3 server with one bucket: `objects` is where it keeps it, `env` is how a service gets there."""

    KEY, SECRET, REGION, BUCKET = "GK6c61726465722d62656e6368", "61" * 32, "us-east-1", "bucket"

    def begin(self, directory, port, *command, env=None):
        directory.mkdir(parents=True, exist_ok=True)
        self.host = f"127.0.0.1:{port}"
        self.start(*command, env=env, log=directory / "log")
        self.env = {
            "LARDER_STORAGE_URL": f"s3://{self.BUCKET}",
            "AWS_ENDPOINT": f"http://{self.host}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": self.REGION,
            "AWS_ACCESS_KEY_ID": self.KEY,
            "AWS_SECRET_ACCESS_KEY": self.SECRET,
        }
        deadline = time.monotonic() + 30
        while subprocess.run(["curl", "-so", "/dev/null", f"http://{self.host}"]).returncode != 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"the S3 server does not start: {(directory / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def url(self, method, key):
        """A URL by which anybody may do that with an object, for an hour:
        https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html"""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/{self.REGION}/s3/aws4_request"
        path = f"/{self.BUCKET}/{key}"
        query = urllib.parse.urlencode(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"{self.KEY}/{scope}",
                "X-Amz-Date": now,
                "X-Amz-Expires": 3600,
                "X-Amz-SignedHeaders": "host",
            }
        )
        request = f"{method}\n{path}\n{query}\nhost:{self.host}\n\nhost\nUNSIGNED-PAYLOAD"
        said = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = f"AWS4{self.SECRET}".encode()
        for part in [*scope.split("/"), said]:
            signature = hmac.digest(signature, part.encode(), "sha256")
        return f"http://{self.host}{path}?{query}&X-Amz-Signature={signature.hex()}"


class SmallS3(S3):
    """The S3 server of the tests."""

    def __init__(self, programs, directory, port):
        self.directory, self.objects = directory, directory / "root" / self.BUCKET
        self.objects.mkdir(parents=True)
        self.begin(directory, port, programs / "larder-s3", f"127.0.0.1:{port}", directory / "root", self.KEY, self.SECRET)


class Garage(S3):
    """Garage, alone, and as deploy/compose/garage.toml has it."""

    def __init__(self, program, directory, port):
        self.directory, self.objects = directory, directory / "data"
        directory.mkdir(parents=True)
        config = directory / "garage.toml"
        config.write_text(f"""
            metadata_dir = "{directory}/meta"
            data_dir = "{self.objects}"
            db_engine = "lmdb"
            replication_factor = 1
            compression_level = "none"
            rpc_bind_addr = "127.0.0.1:{port + 1}"
            rpc_public_addr = "127.0.0.1:{port + 1}"
            rpc_secret = "{self.SECRET}"
            [s3_api]
            api_bind_addr = "127.0.0.1:{port}"
            s3_region = "{self.REGION}"
            """)
        env = {
            "GARAGE_DEFAULT_BUCKET": self.BUCKET,
            "GARAGE_DEFAULT_ACCESS_KEY": self.KEY,
            "GARAGE_DEFAULT_SECRET_KEY": self.SECRET,
            "RUST_LOG": "warn",
        }
        self.begin(directory, port, program, "-c", config, "server", "--single-node", "--default-bucket", env=env)
