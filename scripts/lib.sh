# What the scripts share. Source it; it needs bash.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A script that cd's into the repository uses the toolchain of rust-toolchain.toml.
cd "$root"

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# Runs a command as root.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# need PROGRAM=PACKAGE…: installs the Debian packages whose programs are not there.
need() {
	local pair packages=()
	for pair in "$@"; do
		PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
	done
	[ "${#packages[@]}" -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "these are not installed, and this is not Debian: ${packages[*]} (install them and try again)"
	say "Installing from Debian: ${packages[*]}"
	as_root apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
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
	[ -e /usr/include/stdio.h ] || as_root apt-get install -y -qq --no-install-recommends libc6-dev >/dev/null
}

# Docker, and its daemon if none answers.
need_docker() {
	need docker=docker.io dockerd=docker.io iptables=iptables
	docker info >/dev/null 2>&1 && return 0
	if ! as_root docker info >/dev/null 2>&1; then
		say "Starting Docker's daemon, since none answers (its log: /tmp/larder-dockerd.log)"
		as_root sh -c 'PATH=$PATH:/usr/sbin:/sbin nohup dockerd >/tmp/larder-dockerd.log 2>&1 &'
		local try
		for try in $(seq 60); do
			as_root docker info >/dev/null 2>&1 && break
			[ "$try" -lt 60 ] || die "Docker's daemon did not start within a minute: see /tmp/larder-dockerd.log"
			sleep 1
		done
	fi
	docker info >/dev/null 2>&1 ||
		die "this user may not use Docker: run the script as root, or add the user to the group docker"
}

have_image() { docker image inspect "$1" >/dev/null 2>&1; }
