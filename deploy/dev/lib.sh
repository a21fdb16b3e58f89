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
