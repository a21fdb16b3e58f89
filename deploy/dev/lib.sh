#!/usr/bin/env bash
# What the scripts of the dev cluster share: where things are, and how to report. Sourced, never run.
#
#   KOCO_DEV_DIR  the cluster's folder (default .dev in the clone); each folder is a cluster of its own
#   KOCO_CACHE    where the built servers are kept, shared by all clones (default ~/.cache/koco)
#   PROFILE       the cargo profile of our binaries (default dev)
set -euo pipefail

DEPLOY_DEV=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
CLONE=$(cd "$DEPLOY_DEV/../.." && pwd -P)
DEV=${KOCO_DEV_DIR:-.dev}
[[ $DEV == /* ]] || DEV=$CLONE/$DEV
DEV=$(realpath -ms "$DEV")
KOCO_CACHE=${KOCO_CACHE:-$HOME/.cache/koco}
PROFILE=${PROFILE:-dev}
export KOCO_DEV_DIR=$DEV KOCO_CACHE PROFILE

# shellcheck disable=SC2034  # the scripts that source this use them
{
  TOOLS=$DEV/tools                                # links to the built servers and clients
  ID=$(printf %s "$DEV" | sha256sum | cut -c1-8)  # tells clusters on one machine apart
  RUN=/run/koco-$ID                               # sockets: a clone's path may be too long for them
  CGROUP=koco-$ID
  NODE_IP=10.244.0.1                              # the node, in the cluster's own network namespace
  TEMPORAL_ADDRESS=$NODE_IP:7233
}

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# slowly DOING TIME LOG COMMAND...: runs a command, usually for that time, with its output in a file, and says every ten
# seconds that it goes on.
slowly() {
  local doing=$1 time=$2 log=$3 started=$SECONDS ticker status=0
  shift 3
  (
    exec 9>&- # a lock that may be held
    trap 'kill "$!" 2>/dev/null; exit' TERM
    while sleep 10 >/dev/null 2>&1 & wait "$!" && kill -0 $$ 2>/dev/null; do
      say "  $doing: $((SECONDS - started)) s, usually $time"
    done
  ) &
  ticker=$!
  "$@" >"$log" 2>&1 || status=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || true
  return "$status"
}

# Goes on as root: `need_root "$@"` at a script's top runs it again with sudo where that is needed.
need_root() {
  [[ $EUID -eq 0 ]] && return
  exec sudo env "PATH=$PATH" "HOME=$HOME" "KOCO_DEV_DIR=$DEV" "KOCO_CACHE=$KOCO_CACHE" "PROFILE=$PROFILE" "$0" "$@"
}

# Runs one command as root.
root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }

# Files made as root belong to whoever called sudo.
give_back() { [[ -z ${SUDO_UID:-} ]] || chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$@"; }

# Where cargo puts the binaries (.cargo/config.toml builds for the host's triple by name).
cargo_out() {
  local triple folder=$PROFILE
  triple=$(rustc -vV | sed -n 's/^host: //p')
  [[ $PROFILE == dev ]] && folder=debug
  echo "${CARGO_TARGET_DIR:-$CLONE/target}/$triple/$folder"
}

# starttime PID: the kernel's start time of a process, which with its pid names it for good. Fails for a zombie.
starttime() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) } # the name, which may hold anything, ends at the last bracket
  [[ $stat != Z* ]] || return 1
  cut -d' ' -f20 <<<"$stat"
}

# alive NAME: whether the process recorded under that name runs and is the very one that we started.
# Sets PID.
alive() {
  local started
  [[ -r $DEV/run/$1.pid ]] || return 1
  read -r PID started <"$DEV/run/$1.pid" || return 1
  [[ $(starttime "$PID") == "$started" ]] && grep -q "/$CGROUP/" "/proc/$PID/cgroup" 2>/dev/null
}

# inside CMD...: runs it in the cluster's network namespace (as root).
inside() {
  alive machine || die "the cluster in $DEV is not up: make up"
  nsenter --net="/proc/$PID/ns/net" -- "$@"
}

# cargo_tool NAME VERSION TIME: sets BIN to the folder of a program of crates.io, which is built once a machine, usually in that
# time, into ~/.cache/koco/tools/NAME-<version and compiler>.
cargo_tool() {
  local name=$1 version=$2 work started key
  key=$({ echo "$version" && rustc -vV; } | sha256sum | cut -c1-16)
  BIN=$KOCO_CACHE/tools/$name-$key/bin
  [[ ! -d $BIN ]] || return 0
  mkdir -p "$KOCO_CACHE/tools"
  exec 9>"$KOCO_CACHE/tools/$name.lock" # its own: the servers take a quarter of an hour
  flock --nonblock 9 || { say "waiting for another clone, which is building $name"; flock 9; }
  [[ ! -d $BIN ]] || return 0
  say "building $name (usually $3, once)"
  started=$SECONDS
  work=$(mktemp -d "$KOCO_CACHE/tools/.build-$name-XXXXXX")
  # It runs for a second: its release profile, with LTO, would take longer to build than ever is saved.
  if ! CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
    slowly "building $name" "$3" "$work/log" \
    cargo install --locked --version "=$version" --target-dir "$work/target" --root "$work" "$name"; then
    tail -n 30 "$work/log" >&2
    die "$name doesn't build; all of it in $work/log"
  fi
  rm -rf "$work/target"
  chmod 755 "$work"
  mv "$work" "${BIN%/bin}"
  exec 9>&-
  say "built $name in $((SECONDS - started)) s"
}

# python_environment PINS: sets ENVIRONMENT to the folder of a virtual environment that has them, and PYTHON if it isn't set. It
# is kept in ~/.cache/koco/python, for all clones: one for each interpreter and set of pins.
python_environment() {
  local pins=$1 key work
  PYTHON=${PYTHON:-python3}
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$PYTHON is older than 3.11"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || "$DEPLOY_DEV/deps"
  key=$({ cat "$pins" && "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'; } | sha256sum | cut -c1-16)
  ENVIRONMENT=$KOCO_CACHE/python/$key
  mkdir -p "$KOCO_CACHE/python"
  exec 9>"$KOCO_CACHE/python/lock"
  flock 9
  if [[ ! -e $ENVIRONMENT/complete ]]; then
    say "installing $pins for $("$PYTHON" -V) (usually 20 s, once)"
    rm -rf "$ENVIRONMENT"
    "$PYTHON" -m venv "$ENVIRONMENT"
    work=$(mktemp)
    if ! slowly "installing $pins" "20 s" "$work" \
      "$ENVIRONMENT/bin/pip" install --require-hashes --only-binary :all: -r "$pins"; then
      tail -n 20 "$work" >&2
      die "$pins can't be installed"
    fi
    rm -f "$work"
    touch "$ENVIRONMENT/complete"
  fi
  exec 9>&-
}
