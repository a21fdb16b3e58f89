#!/usr/bin/env bash
# The "machine" that the cluster's servers run on: a network namespace, a mount namespace and a cgroup, so that they
# see the paths, ports and addresses of any node, and nothing of them shows outside. Sourced by `cluster`.
#
# Its first process ("machine", see machine-init) holds the namespaces; nothing is mounted or bound for them outside.
# The cgroup holds every process, so it knows what to end; with the last process, mounts and network end too.

# The folders of all cgroup hierarchies: one with cgroup v2, one a controller with v1.
cgroup_roots() { awk '/ - cgroup2? / { print $5 }' /proc/self/mountinfo | sort -u; }

cgroup_create() {
  local root dir file controller
  for root in $(cgroup_roots); do
    dir=$root/$CGROUP
    mkdir -p "$dir/servers"
    if [[ -f $root/cgroup.controllers ]]; then
      for controller in $(<"$root/cgroup.controllers"); do
        echo "+$controller" >"$root/cgroup.subtree_control" || true # one that can't be had, the kubelet names
        echo "+$controller" >"$dir/cgroup.subtree_control" || true
      done
    elif [[ -f $root/cpuset.cpus ]]; then # v1: empty until somebody says otherwise, and then nothing can join
      for file in cpuset.cpus cpuset.mems; do
        cat "$root/$file" >"$dir/$file"
        cat "$root/$file" >"$dir/servers/$file"
      done
    fi
  done
}

# Puts the calling (sub)shell into the cgroup.
cgroup_join() {
  local root
  for root in $(cgroup_roots); do echo "$BASHPID" >"$root/$CGROUP/servers/cgroup.procs"; done
}

# Every process of this cluster: servers, containerd's shims, pods.
cgroup_pids() {
  local root
  for root in $(cgroup_roots); do
    [[ ! -d $root/$CGROUP ]] || find "$root/$CGROUP" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -un
}

cgroup_kill() {
  local pids deadline=$((SECONDS + 20))
  while pids=$(cgroup_pids) && [[ -n $pids ]]; do
    ((SECONDS < deadline)) || die "these processes don't end: $(tr '\n' ' ' <<<"$pids")"
    # shellcheck disable=SC2086  # one word a process
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
}

cgroup_remove() {
  local root deadline
  for root in $(cgroup_roots); do
    deadline=$((SECONDS + 10))
    until [[ ! -d $root/$CGROUP ]] || find "$root/$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null; do
      ((SECONDS < deadline)) || die "can't remove the cgroup $root/$CGROUP"
      sleep 0.05
    done
  done
}

# What the machine proper has of the kinds of network things that the cluster makes.
network_outside() {
  {
    ip -oneline link | cut -d' ' -f2 | grep -E '^(node0|veth)' || true
    if command -v nft >/dev/null; then nft list tables | grep -E 'kube-proxy|cni' || true; fi
  } | sort
}

# Brings the machine up. After a reboot or a kill -9 of its holder, what is left of it is cleared away first,
# as after a power cut; the data stay.
machine_up() {
  if alive machine; then
    await machine
    return
  fi
  cgroup_kill
  rm -rf "$RUN" "$DEV/run"
  [[ -d $DEV/data ]] || rm -rf "$DEV/log" # a new cluster's logs hold nothing of an earlier one's
  mkdir -p "$RUN/containerd" "$DEV"/{run,log} "$DEV"/data/{kubelet,containerd,cni,pod-logs,log-links,archive}
  chmod 777 "$DEV/data/archive" # the server's, which is not root
  rm -rf "$DEV"/data/cni/* # addresses that pods of the lost machine held
  network_outside >"$DEV/log/network-before"
  give_back "$DEV" "$DEV/log"
  cgroup_create
  launch machine unshare --net --mount --propagation slave "$DEPLOY_DEV/machine-init"
  await machine
}

machine_down() {
  cgroup_kill
  cgroup_remove
  rm -rf --one-file-system "$RUN" "${DEV:?}"/{run,data,pki,config,bin,kubeconfig}
}
