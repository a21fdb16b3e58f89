#!/usr/bin/env bash
# The cluster's servers: how each is started and how one sees that it is ready. Sourced by `cluster`.

SERVERS=(etcd containerd temporal kube-apiserver kube-controller-manager kube-scheduler kube-proxy coredns kubelet
  network-policies)

# Where they listen: on a machine of their own, at their usual ports. Whoever starts some of them elsewhere says so
# after sourcing this. With any other address Temporal's services don't find each other; there is no interface but the
# cluster's own.
declare -A PORT=([etcd]=2379 [etcd-peer]=2380 [kube-apiserver]=6443 [kube-controller-manager]=10257)
TEMPORAL_IP=0.0.0.0

# command_of SERVER: sets COMMAND. They listen on the loopback of the cluster's namespace or on the node's address.
# shellcheck disable=SC2054  # some options take lists with commas
command_of() {
  local pki=$DEV/pki config=$DEV/config
  local client=http://127.0.0.1:${PORT[etcd]} peer=http://127.0.0.1:${PORT[etcd-peer]}
  case $1 in
    etcd) COMMAND=("$TOOLS/etcd" --name node1 --data-dir "$DEV/data/etcd" --unsafe-no-fsync --log-level warn
      --listen-client-urls "$client" --advertise-client-urls "$client"
      --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "node1=$peer") ;;
    kube-apiserver) COMMAND=("$TOOLS/kube-apiserver" --etcd-servers "$client"
      --bind-address "$NODE_IP" --advertise-address "$NODE_IP" --secure-port "${PORT[kube-apiserver]}"
      --service-cluster-ip-range 10.96.0.0/16 --allow-privileged --authorization-mode Node,RBAC
      --enable-admission-plugins NodeRestriction
      --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key"
      --kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types InternalIP
      --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key"
      --requestheader-client-ca-file "$pki/ca.crt" --requestheader-allowed-names front-proxy-client
      --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group
      --requestheader-extra-headers-prefix X-Remote-Extra-
      --service-account-issuer https://kubernetes.default.svc.cluster.local
      --service-account-key-file "$pki/service-accounts.pub"
      --service-account-signing-key-file "$pki/service-accounts.key"
      --audit-policy-file "$config/audit-policy.yaml" --audit-log-path "$DEV/log/audit.log" --audit-log-maxsize 1000) ;;
    kube-controller-manager) COMMAND=("$TOOLS/kube-controller-manager" --bind-address 127.0.0.1
      --secure-port "${PORT[$1]}"
      --kubeconfig "$pki/$1.kubeconfig" --leader-elect=false --use-service-account-credentials
      --authentication-kubeconfig "$pki/$1.kubeconfig" --authorization-kubeconfig "$pki/$1.kubeconfig"
      --kube-api-qps 500 --kube-api-burst 1000
      --root-ca-file "$pki/ca.crt" --service-account-private-key-file "$pki/service-accounts.key"
      --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key") ;;
    kube-scheduler) COMMAND=("$TOOLS/kube-scheduler" --bind-address 127.0.0.1 --leader-elect=false
      --kubeconfig "$pki/$1.kubeconfig" --kube-api-qps 500 --kube-api-burst 1000
      --authentication-kubeconfig "$pki/$1.kubeconfig" --authorization-kubeconfig "$pki/$1.kubeconfig") ;;
    kube-proxy) COMMAND=("$TOOLS/kube-proxy" --config "$config/kube-proxy.yaml") ;;
    coredns) COMMAND=("$TOOLS/coredns" -conf "$config/Corefile") ;;
    containerd) COMMAND=("$TOOLS/containerd" --config "$config/containerd.toml") ;;
    network-policies) COMMAND=("$DEPLOY_DEV/network-policies") ;;
    kubelet) COMMAND=("$TOOLS/kubelet" --config "$config/kubelet.yaml" --kubeconfig "$pki/node1.kubeconfig"
      --hostname-override node1 --node-ip "$NODE_IP") ;;
    temporal) COMMAND=("$TOOLS/temporal" server start-dev --headless --log-level warn
      --ip "$TEMPORAL_IP" --port "${TEMPORAL_ADDRESS##*:}" --db-filename "$DEV/data/temporal.db") ;;
    *) die "no such server: $1 (there are ${SERVERS[*]})" ;;
  esac
}

# http URL: whether it answers with success
http() { inside curl --silent --fail --insecure --max-time 2 --output /dev/null "$1"; }

ready() {
  case $1 in
    machine) [[ -e $DEV/run/machine.ready ]] ;;
    etcd) http "http://127.0.0.1:${PORT[$1]}/readyz" ;;
    kube-apiserver) http "https://$NODE_IP:${PORT[$1]}/readyz" ;;
    kube-controller-manager) http "https://127.0.0.1:${PORT[$1]}/healthz" ;;
    kube-scheduler) http https://127.0.0.1:10259/readyz ;;
    kube-proxy) http http://127.0.0.1:10256/livez ;;
    coredns) http http://127.0.0.1:8181/ready ;;
    network-policies) inside grep -qE '^ *100 ' /proc/net/netfilter/nfnetlink_queue ;;
    kubelet) http http://127.0.0.1:10248/healthz ;;
    containerd) "$TOOLS/ctr" --address "$RUN/containerd/containerd.sock" --connect-timeout 1s version >/dev/null 2>&1 ;;
    temporal) inside "$TOOLS/temporal" operator namespace describe default --address "$TEMPORAL_ADDRESS" >/dev/null 2>&1 ;;
  esac
}

# launch NAME COMMAND...: starts it on the machine, detached, and records who it is.
launch() {
  local name=$1 enter=() pid
  shift
  if alive machine; then enter=(nsenter --net="/proc/$PID/ns/net" --mount="/proc/$PID/ns/mnt" --); fi
  rm -f "$DEV/run/$name.ready"
  printf -- '--- %s starts\n' "$(date '+%F %T')" >>"$DEV/log/$name.log"
  (
    cgroup_join
    cd /
    export PATH=$TOOLS:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    exec setsid "${enter[@]}" "$@"
  ) </dev/null >>"$DEV/log/$name.log" 2>&1 9>&- &
  pid=$!
  echo "$pid $(starttime "$pid")" >"$DEV/run/$name.pid"
  LAUNCHED+=("$name")
}
LAUNCHED=()

# await NAME...: until each is ready. Fails as soon as any server launched here has died, with its last words.
await() {
  local name other deadline=$((SECONDS + 60))
  for name in "$@"; do
    until ready "$name"; do
      for other in "$name" "${LAUNCHED[@]}"; do
        alive "$other" || wait_join "$other" || give_up "$other" "has died"
      done
      ((SECONDS < deadline)) || give_up "$name" "is not ready after 60 s"
      sleep 0.1
    done
  done
}

# A process just forked may not have joined the cgroup yet.
wait_join() { sleep 0.3; alive "$1"; }

give_up() {
  say "--- the end of $DEV/log/$1.log:"
  tail -n 20 "$DEV/log/$1.log" >&2
  die "$1 $2"
}

# start NAME: unless it runs, as it is now built and configured.
start() {
  local COMMAND now
  command_of "$1"
  now=$(fingerprint "${COMMAND[@]}")
  if alive "$1"; then
    [[ $(cat "$DEV/run/$1.fingerprint" 2>/dev/null) != "$now" ]] || return 0
    say "$1 has changed, and is restarted"
    stop "$1"
  fi
  launch "$1" "${COMMAND[@]}"
  echo "$now" >"$DEV/run/$1.fingerprint"
}

# fingerprint COMMAND...: of the command, its program and its configuration files
fingerprint() {
  local word
  {
    echo "$@"
    readlink -f "$1"
    for word in "$@"; do [[ $word != "$DEV/config/"* ]] || cat "$word"; done
  } | sha256sum
}

# stop NAME [SIGNAL]: until it has gone; asked to end, it has ten seconds before it is killed.
stop() {
  local signal=${2:-TERM} deadline=$((SECONDS + 10))
  command_of "$1"
  while alive "$1"; do
    ((SECONDS < deadline)) || signal=KILL
    kill "-$signal" "$PID" 2>/dev/null || true
    sleep 0.1
  done
  rm -f "$DEV/run/$1.pid"
}
