# What the scripts share. Source it; it needs bash.
# shellcheck shell=bash
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A script that cd's into the repository uses the toolchain of rust-toolchain.toml.
cd "$root"

say() { printf '\n== %d:%02d %s\n' "$((SECONDS / 60))" "$((SECONDS % 60))" "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# Goes on as root: these scripts install packages, start Docker's daemon and build in /nix/store.
be_root() {
	[ "$(id -u)" -ne 0 ] || return 0
	command -v sudo >/dev/null || die "run it as root, or install sudo"
	note "going on as root, by sudo"
	exec sudo HOME="$HOME" PATH="$PATH" "$0" "$@"
}

# What root made where the user builds is the user's.
give_back() {
	[ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$root/target" "$HOME/.cargo/registry" 2>/dev/null || true
}
trap give_back EXIT

# need PROGRAM=PACKAGE…: installs the Debian packages whose programs are not there.
need() {
	local pair packages=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
	done
	[ "${#packages[@]}" -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "these are not installed, and this is not Debian: ${packages[*]} (install them and try again)"
	say "Installing from Debian: ${packages[*]}"
	apt-get update -qq
	env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# Rust, as rust-toolchain.toml asks for it.
need_rust() {
	[ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH
	command -v cargo >/dev/null ||
		die "Rust is not installed: https://rustup.rs tells how (rustup then fetches what rust-toolchain.toml names)"
	cargo --version >/dev/null || die "cargo does not run here; its own message stands above"
}

# A C compiler, for the crates that bring C with them.
need_cc() {
	need gcc=gcc make=make
	[ -e /usr/include/stdio.h ] || apt-get install -y -qq --no-install-recommends libc6-dev >/dev/null
}

# Docker, and its daemon if none answers.
need_docker() {
	need docker=docker.io dockerd=docker.io iptables=iptables
	docker info >/dev/null 2>&1 && return 0
	say "Starting Docker's daemon, since none answers (its log: /tmp/larder-dockerd.log)"
	nohup dockerd >/tmp/larder-dockerd.log 2>&1 </dev/null &
	local end=$((SECONDS + 60))
	while [ "$SECONDS" -lt "$end" ]; do
		docker info >/dev/null 2>&1 && return 0
		sleep 1
	done
	die "Docker's daemon did not start within a minute: see /tmp/larder-dockerd.log"
}

# The programs of tools.txt, in target/tools, first on the PATH.
need_tools() {
	local tools=$root/target/tools wanted
	wanted=$(sha256sum scripts/tools.txt)
	if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
		say "Installing the programs of scripts/tools.txt from PyPI"
		need python3=python3
		rm -rf "$tools"
		python3 -m venv "$tools" >/dev/null 2>&1 || {
			need python3-venv=python3-venv
			/usr/bin/python3 -m venv "$tools"
		}
		"$tools/bin/pip" install --quiet --require-hashes --only-binary=:all: -r scripts/tools.txt
		printf '%s' "$wanted" >"$tools/installed"
	fi
	PATH=$tools/bin:$PATH
}

# The webhooks that GitHub's own documentation shows, in target/webhooks-examples: from npm, never run, only read.
need_webhook_examples() {
	local version=7.6.1 examples=$root/target/webhooks-examples
	local sum=0dee94dd707a3b70ed09aedb2a008ccd31dd7a8a6aa99e92362bcc6099caeb989eaca2f5027348034b644580914bb970193efdd9df8fb3559b7c796ca3a3329d
	[ "$(cat "$examples/installed" 2>/dev/null)" != "$version" ] || return 0
	say "Installing the examples of webhooks from npm"
	need npm=npm
	rm -rf "$examples"
	mkdir -p "$examples"
	(
		cd "$examples"
		npm pack --silent "@octokit/webhooks-examples@$version" >/dev/null
		printf '%s  %s\n' "$sum" "octokit-webhooks-examples-$version.tgz" | sha512sum --check --quiet
		tar -xzf "octokit-webhooks-examples-$version.tgz" package/api.github.com/index.json
		mv package/api.github.com/index.json .
		rm -r package ./*.tgz
	)
	printf '%s' "$version" >"$examples/installed"
}

# PostgreSQL's programs, of which Debian puts few on the PATH.
need_postgres() {
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need initdb=postgresql
}

# What a run leaves behind on its end: its servers, and root's files.
stop_servers() {
	[ -z "${postgres:-}" ] || runuser -u postgres -- "$programs/pg_ctl" -D "$postgres/data" -m immediate stop >/dev/null || true
	[ -z "${s3_process:-}" ] || { kill "$s3_process" && wait "$s3_process"; } 2>/dev/null || true
	rm -rf "${postgres:-}" "${s3:-}" ${s3:+"$s3.log"}
	give_back
}

# A PostgreSQL server of this run's own, which ends with it. Its database is in LARDER_TEST_DATABASE.
start_postgres() {
	local port
	need_postgres
	programs=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)
	postgres=$(mktemp -d)
	chown postgres "$postgres"
	trap stop_servers EXIT
	port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	(
		cd "$postgres"
		runuser -u postgres -- "$programs/initdb" -D data -A trust -N >/dev/null
		# What it holds is worth nothing after this run.
		printf '%s\n' "port = $port" "listen_addresses = '127.0.0.1'" "unix_socket_directories = '$postgres'" \
			'max_connections = 300' 'fsync = off' 'synchronous_commit = off' 'full_page_writes = off' >>data/postgresql.conf
		runuser -u postgres -- "$programs/pg_ctl" -D data -w -l log start >/dev/null
	)
	export LARDER_TEST_DATABASE="postgres://postgres@127.0.0.1:$port/postgres"
}

# An S3 server of this run's own, which ends with it. Its bucket is in LARDER_TEST_STORAGE, and how it is reached, AWS's own
# variables say. The programs must be built.
start_s3() {
	s3=$(mktemp -d)
	trap stop_servers EXIT
	mkdir "$s3/objects"
	export AWS_ACCESS_KEY_ID=larder AWS_SECRET_ACCESS_KEY=a-secret-key-for-tests AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true
	coproc S3 { exec target/debug/larder-s3 127.0.0.1:0 "$s3" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"; }
	s3_process=$S3_PID
	read -r AWS_ENDPOINT <&"${S3[0]}"
	export AWS_ENDPOINT=http://$AWS_ENDPOINT LARDER_TEST_STORAGE=s3://objects
}

# Garage, an S3 server as many host it, from crates.io. Its program is in $garage.
need_garage() {
	local version=2.5.0 folder
	folder=${XDG_CACHE_HOME:-$HOME/.cache}/larder/garage-$version
	garage=$folder/bin/garage
	[ ! -x "$garage" ] || return 0
	say "Building Garage $version, once, into $folder (ten minutes or more, and 2 GB while it lasts)"
	CARGO_TARGET_DIR=$folder.target cargo install garage --quiet --locked --version "$version" \
		--no-default-features --features bundled-libs,lmdb --root "$folder"
	rm -rf "$folder.target"
}

# The same with Garage.
start_garage() {
	local port rpc_port
	s3=$(mktemp -d)
	trap stop_servers EXIT
	read -r port rpc_port < <(python3 -c 'import socket
s = [socket.socket() for _ in range(2)]
[one.bind(("127.0.0.1", 0)) for one in s]
print(*(one.getsockname()[1] for one in s))')
	export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true
	AWS_ACCESS_KEY_ID=GK$(openssl rand -hex 12) AWS_SECRET_ACCESS_KEY=$(openssl rand -hex 32)
	# As deploy/compose/garage.toml has it, but for addresses, and the kind of its database: SQLite takes longer to build.
	cat >"$s3/garage.toml" <<-END
		metadata_dir = "$s3/meta"
		data_dir = "$s3/data"
		db_engine = "lmdb"
		replication_factor = 1
		compression_level = "none"
		rpc_bind_addr = "127.0.0.1:$rpc_port"
		rpc_public_addr = "127.0.0.1:$rpc_port"
		rpc_secret = "$(openssl rand -hex 32)"
		[s3_api]
		api_bind_addr = "127.0.0.1:$port"
		s3_region = "$AWS_REGION"
	END
	GARAGE_DEFAULT_BUCKET=objects GARAGE_DEFAULT_ACCESS_KEY=$AWS_ACCESS_KEY_ID GARAGE_DEFAULT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY \
		"$garage" -c "$s3/garage.toml" server --single-node --default-bucket >"$s3/log" 2>&1 &
	s3_process=$!
	export AWS_ENDPOINT=http://127.0.0.1:$port LARDER_TEST_STORAGE=s3://objects
	until curl -so /dev/null "$AWS_ENDPOINT"; do
		kill -0 "$s3_process" 2>/dev/null || die "Garage does not start: $(tail -n 5 "$s3/log")"
		sleep 0.2
	done
}

# Azurite, by which those test who use Azure's storage, from npm. Its program is in $azurite.
need_azurite() {
	local version=3.37.0 folder
	folder=${XDG_CACHE_HOME:-$HOME/.cache}/larder/azurite-$version
	azurite=$folder/node_modules/.bin/azurite-blob
	need npm=npm
	[ ! -x "$azurite" ] || return 0
	say "Installing Azurite $version, once, into $folder (370 MB)"
	npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$folder" "azurite@$version"
}

# An Azurite of this run's own, which ends with it, with a container, as Azure calls a bucket.
start_azurite() {
	local port
	s3=$(mktemp -d)
	trap stop_servers EXIT
	port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	"$azurite" --location "$s3" --blobPort "$port" --silent --skipApiVersionCheck --disableTelemetry >"$s3.log" 2>&1 &
	s3_process=$!
	export AZURE_STORAGE_USE_EMULATOR=true AZURITE_BLOB_STORAGE_URL=http://127.0.0.1:$port LARDER_TEST_STORAGE=azure://objects
	until curl -so /dev/null "$AZURITE_BLOB_STORAGE_URL"; do
		kill -0 "$s3_process" 2>/dev/null || die "Azurite does not start: $(tail -n 5 "$s3.log")"
		sleep 0.2
	done
	# https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key, with the account that every emulator has.
	python3 - "$AZURITE_BLOB_STORAGE_URL" <<-'END'
		import base64, email.utils, hashlib, hmac, sys, urllib.request
		account, container, version = "devstoreaccount1", "objects", "2021-12-02"
		key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
		date = email.utils.formatdate(usegmt=True)
		text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{container}\nrestype:container"
		signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)).decode()
		headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signature}"}
		url = f"{sys.argv[1]}/{account}/{container}?restype=container"
		urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30)
	END
}

have_image() { docker image inspect "$1" >/dev/null 2>&1; }
