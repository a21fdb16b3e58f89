//! An agent with a shell that wants to be its runner: it looks for a credential in all that its container has, and tries to
//! end the runner.

use serde_json::json;

use crate::harness::{
    MODES, Phase, Test, agent,
    job::{With, result},
};

/// Leaves as its result what it got at.
const SCRIPT: &str = r#"
found=""
opens() { ( : <"$1" ) 2>/dev/null; }
opens /proc/self/environ || found="$found nothing-at-all"
for file in environ mem maps auxv fd/0 cwd/. root/. exe; do
  if opens /proc/1/$file; then found="$found /proc/1/$file"; fi
done
found="$found $(find /koco/token -type f)"
# A token begins like this.
found="$found $(grep -rlsE 'eyJ[A-Za-z0-9_-]+[.]eyJ' /koco /run /var /tmp /etc /dev/shm /root)"
if env | grep -q KOCO_; then found="$found environment"; fi
for signal in TERM INT QUIT HUP USR1 USR2 WINCH PWR KILL STOP; do kill -$signal 1; done
printf '{"found":"%s"}' "$(echo $found)" >"$KODO_RESULT_FILE"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_finds_no_credential_and_cannot_end_its_runner() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        for user in [0, 1000] {
            let containers = json!([{
                "name": "agent", "image": "localhost/busybox:dev", "command": ["sh", "-c", SCRIPT],
                "securityContext": { "runAsUser": user },
            }]);
            let spec = agent("hostile").mode(mode).with(json!({
                "template": { "spec": { "containers": containers } },
                "retryPolicy": { "maximumAttempts": 1 },
            }));
            let job = test.apply(spec).await;
            let status = job.phase(Phase::Succeeded).await;
            assert_eq!(result(&status)["found"], json!(""), "as user {user} in {mode:?}");
        }
    }
}
