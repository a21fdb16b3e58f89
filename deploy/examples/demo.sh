#!/usr/bin/env bash
# Runs three agent jobs at once and prints what happens while it happens: one in Direct mode, one in Temporal mode that is
# paused and resumed in the middle, and one that fails twice before it succeeds. Ends with their results; fails if a job does.
#
# Needs kubectl and jq, and a cluster with the operator, Temporal and the image of the examples (`make up`). Each run begins by
# deleting the jobs of the last.
#
#   KOCO_DEMO_NAMESPACE  where the jobs run (koco-demo)
#   KOCO_DEMO_TIMEOUT    how long all of it may take, in seconds (300)
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
DEV=${KOCO_DEV_DIR:-.dev}
[[ $DEV == /* ]] || DEV=$HERE/../../$DEV
[[ ! -x $DEV/bin/kubectl ]] || PATH=$DEV/bin:$PATH
NAMESPACE=${KOCO_DEMO_NAMESPACE:-koco-demo}
TIMEOUT=${KOCO_DEMO_TIMEOUT:-300}
JOBS=(summarize-direct summarize-temporal flaky-temporal)
PAUSED_JOB=summarize-temporal # in the middle of its work
PAUSE_AFTER=4                 # sentences
PAUSE_SECONDS=4

WORK=$(mktemp -d)
STARTED=${EPOCHREALTIME/[.,]/}
PIDS=() # what runs in the background until the end
LOGS=() # what follows the agents' logs, and ends with them
finish() {
  local status=$?
  trap - EXIT INT TERM
  for pid in "${PIDS[@]}" "${LOGS[@]}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$WORK"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for tool in kubectl jq; do
  command -v "$tool" >/dev/null || { echo "demo.sh needs $tool in PATH" >&2; exit 1; }
done
kube() { kubectl --namespace "$NAMESPACE" "$@"; }
# For a place in the background: this process becomes kubectl, so that ending it ends kubectl.
watch() { exec kubectl --namespace "$NAMESPACE" --request-timeout "${TIMEOUT}s" "$@"; }

declare -A COLOUR=([summarize-direct]=36 [summarize-temporal]=35 [flaky-temporal]=33)
BOLD='' DIM='' PLAIN='' COLOURED=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' PLAIN=$'\e[0m' COLOURED=1; fi

title() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }

# tell JOB KIND TEXT: one line, with the time since the start
tell() {
  local now=${EPOCHREALTIME/[.,]/} colour='' style='' text=$3
  ((${#text} <= 120)) || text=${text:0:119}…
  [[ -z $COLOURED ]] || colour=$'\e['${COLOUR[$1]}m
  case $2 in log) style=$DIM ;; status | demo) style=$BOLD ;; esac
  printf '%3d.%d s  %s%-18s%s  %-6s  %s%s%s\n' $(((now - STARTED) / 1000000)) $(((now - STARTED) / 100000 % 10)) \
    "$colour" "$1" "$PLAIN" "$2" "$style" "$text" "$PLAIN"
}

# follow JOB POD: the agent's own lines. A pod whose agent has just started may not have its log yet.
follow() {
  local job=$1 pod=$2 pid=''
  trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; exit 0' TERM
  for _ in {1..50}; do
    watch logs --follow --container agent "$pod" >"$WORK/$pod.log" 2>/dev/null &
    pid=$!
    tail --follow --lines=+1 --sleep-interval=0.1 --pid="$pid" "$WORK/$pod.log" 2>/dev/null |
      while IFS= read -r line; do tell "$job" log "$line"; done
    if wait "$pid"; then return; fi
    sleep 0.2
  done
  tell "$job" demo "no log of pod $pod"
}

# Pauses a job that works, looks whether it stands still, and resumes it.
pause_and_resume() {
  local job=$PAUSED_JOB pod log before after deadline=$((SECONDS + TIMEOUT))
  until pod=$(cat "$WORK/$job.pod" 2>/dev/null) && log=$WORK/$pod.log &&
    [[ $(grep -c '^sentence' "$log" 2>/dev/null) -ge $PAUSE_AFTER ]]; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
  tell "$job" demo "kubectl patch: desiredState Paused"
  kube patch agentjob "$job" --type merge --patch '{"spec":{"desiredState":"Paused"}}' >/dev/null
  if ! kube wait agentjob "$job" --for=condition=Paused --timeout=120s >/dev/null 2>&1; then
    [[ $(kube get agentjob "$job" --output jsonpath='{.status.phase}') == Succeeded ]] || return 1
    tell "$job" demo "it had ended before the pause reached it"
    return 0
  fi
  sleep 0.5 # what was said before the freeze may still be on its way
  before=$(kube logs --container agent "$pod" | grep -c '^sentence')
  sleep "$PAUSE_SECONDS"
  after=$(kube logs --container agent "$pod" | grep -c '^sentence')
  if [[ $before != "$after" ]]; then
    tell "$job" demo "it did not stand still: $before sentences, then $after"
    return 1
  fi
  tell "$job" demo "frozen: $before sentences were read, and $PAUSE_SECONDS s later it is still $after"
  tell "$job" demo "kubectl patch: desiredState Running"
  kube patch agentjob "$job" --type merge --patch '{"spec":{"desiredState":"Running"}}' >/dev/null
}

title "Three agents, in the namespace $NAMESPACE"
kubectl get namespace "$NAMESPACE" >/dev/null 2>&1 || kubectl create namespace "$NAMESPACE"
kube delete agentjobs "${JOBS[@]}" --ignore-not-found --wait --timeout=120s
for job in "${JOBS[@]}"; do kube apply --filename "$HERE/$job.yaml"; done
UIDS=$(kube get agentjobs "${JOBS[@]}" --output json | jq -c '[.items[].metadata.uid]')

title "What happens"
# Everything comes from two watches. The first line of each job is how it stands now.
mkfifo "$WORK/jobs" "$WORK/states" "$WORK/events" "$WORK/notes"
watch get agentjobs --watch --output json >"$WORK/jobs" &
PIDS+=($!)
jq --unbuffered --raw-output --argjson uids "$UIDS" '
  (if .kind == "List" then .items[] else . end) | select(.metadata.uid | IN($uids[])) | .status as $s
  | [.metadata.name, $s.phase // "Pending", $s.attempt // 0, $s.error.type // "-", $s.error.message // "-",
     # The pod whose agent has started
     (if $s.attempt and ($s.phase | IN("Pending", "Retrying") | not) then $s.runnerPod // "-" else "-" end),
     ([$s.conditions[]? | select(.type == "Stalled" and .status == "True") | "\(.reason): \(.message)"] | first // "-")]
  | map(tostring | gsub("[\\t\\n]"; " ")) | join("\t")' <"$WORK/jobs" >"$WORK/states" &
PIDS+=($!)
watch get events --watch --output json --field-selector involvedObject.kind=AgentJob >"$WORK/events" &
PIDS+=($!)
jq --unbuffered --raw-output --argjson uids "$UIDS" '
  (if .kind == "List" then .items[] else . end) | select(.involvedObject.uid | IN($uids[]))
  | select((.series.count // .count // 1) <= 1) # a repeated event keeps the words of its first time
  | "\(.involvedObject.name)\t\(.reason): \(.message | gsub("[\\t\\n]"; " "))"' <"$WORK/events" >"$WORK/notes" &
PIDS+=($!)
while IFS=$'\t' read -r job text; do tell "$job" event "$text"; done <"$WORK/notes" &
PIDS+=($!)
pause_and_resume &
PAUSE=$!
PIDS+=("$PAUSE")

declare -A LAST=() PHASE=() FOLLOWED=()
ended=0
while ((ended < ${#JOBS[@]})); do
  left=$((TIMEOUT - (${EPOCHREALTIME/[.,]/} - STARTED) / 1000000))
  if ((left <= 0)) || ! IFS=$'\t' read -r -t "$left" job phase attempt kind message pod stalled <&3; then
    echo "not all jobs have ended after $TIMEOUT s, or the watch was lost: kubectl describe agentjobs -n $NAMESPACE" >&2
    exit 1
  fi
  if [[ $pod != - && -z ${FOLLOWED[$pod]:-} ]]; then
    FOLLOWED[$pod]=yes
    echo "$pod" >"$WORK/$job.pod"
    follow "$job" "$pod" &
    LOGS+=($!)
  fi
  text="$phase, attempt $attempt"
  [[ $attempt != 0 ]] || text=$phase
  case $phase in Retrying | Failed) [[ $kind == - ]] || text+=" ($kind: $message)" ;; esac
  [[ $stalled == - ]] || text+=" [stalled, $stalled]"
  [[ ${LAST[$job]:-} != "$text" ]] || continue
  [[ -z ${LAST[$job]:-} ]] || tell "$job" status "$text"
  LAST[$job]=$text
  case ${PHASE[$job]:-} in Succeeded | Failed | Cancelled) continue ;; esac
  PHASE[$job]=$phase
  case $phase in Succeeded | Failed | Cancelled) ended=$((ended + 1)) ;; esac
done 3<"$WORK/states"
for pid in "${LOGS[@]}"; do wait "$pid" || true; done
LOGS=()

title "Results"
kube get agentjobs "${JOBS[@]}" --output json | jq '.items[] | {
  job: .metadata.name, phase: .status.phase, mode: .status.resolved.executionMode, attempts: .status.attempt,
  fid: .status.fid, error: .status.error, result: .status.result
} | del(.. | select(. == null))'
kube get agentjobs "${JOBS[@]}"

failed=0
for job in "${JOBS[@]}"; do
  if [[ ${PHASE[$job]} != Succeeded ]]; then
    echo "$job has ended as ${PHASE[$job]}: kubectl describe agentjob $job -n $NAMESPACE" >&2
    failed=1
  fi
done
if ! wait "$PAUSE"; then
  echo "$PAUSED_JOB was not paused as it should have been" >&2
  failed=1
fi
((failed == 0)) || exit 1

# Where the server is installed, and the plugin is there to ask it.
server=$(kubectl get services --all-namespaces --selector app.kubernetes.io/part-of=koco,app.kubernetes.io/component=server \
  --output jsonpath='{.items[0].metadata.namespace}' 2>/dev/null) || server=''
if [[ -n $server ]] && command -v kubectl-koco >/dev/null; then
  gone=${JOBS[0]}
  title "Deleted, and still known: kubectl delete agentjob $gone"
  kube delete agentjob "$gone" --wait --timeout=120s
  kubectl koco archive get "$gone" --namespace "$NAMESPACE" --operator-namespace "$server"
  kubectl koco events "$gone" --namespace "$NAMESPACE" --operator-namespace "$server" >"$WORK/told"
  head -n 12 "$WORK/told"
  echo "… $(wc -l <"$WORK/told") events in all: kubectl koco events $gone -n $NAMESPACE"
  lines=$(kubectl koco events "$gone" --namespace "$NAMESPACE" --operator-namespace "$server" --kind stdout | wc -l)
  ((lines > 0)) || { echo "none of what $gone printed is in the archive" >&2; exit 1; }
fi

title "To try next"
cat <<TEXT
  export PATH=$(realpath --canonicalize-missing "$DEV")/bin:\$PATH
  kubectl describe agentjob flaky-temporal -n $NAMESPACE     # its status and its events
  kubectl logs -n $NAMESPACE -c agent --prefix --tail 4 -l kodosumi.io/job-name=flaky-temporal   # a pod for each attempt
  kubectl koco archive list -n $NAMESPACE                     # what became of all jobs, also of those that are deleted
  kubectl port-forward -n koco-system service/koco-server 8445   # the panel, https://localhost:8445/; a token to sign in with:
  kubectl create token koco-archive-reader -n koco-system --audience koco
  temporal workflow list --query 'WorkflowType="AgentWorkflow"'
  make load-image FILE=image.tar                          # an agent of your own: see docs/agent-contract.md
TEXT
