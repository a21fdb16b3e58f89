//! The contract between a runner and the gateway: HTTP/1.1 over TLS, JSON, bearer token of the pod.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/hello` | [`Hello`] | 200 [`Job`]; repeated until answered, and again after every lost connection |
//! | `POST /v1/orders` | [`Sender`] | 200 and a stream of [`Order`]s, one JSON object a line |
//! | `POST /v1/heartbeat` | [`Heartbeat`] | 204; 410 the run is closed: stop |
//! | `POST /v1/confirm` | [`Confirm`] | 204; 409 no such command was given |
//! | `POST /v1/outcome` | [`Report`] | 204 stored; 409 another outcome of this run was first; 410 nobody wants it |
//!
//! 401: the token is refused. 403: the run is another pod's. 410: the run is closed or gone, or its job is over. 429: this
//! pod asks too often, and 503: try again. Errors carry an [`ErrorResponse`]. After 403, 404 and 410 a runner stops its
//! agent.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::workflow::JobRef;
use crate::api::{DesiredState, ErrorStatus, PauseNotice, PausePolicy, RawJson, RunnerState, TerminationType};

/// `POST` [`Hello`].
pub const PATH_HELLO: &str = "/v1/hello";
/// `POST` a [`Sender`], get a stream of [`Order`]s.
pub const PATH_ORDERS: &str = "/v1/orders";
/// `POST` [`Heartbeat`].
pub const PATH_HEARTBEAT: &str = "/v1/heartbeat";
/// `POST` [`Confirm`].
pub const PATH_CONFIRM: &str = "/v1/confirm";
/// `POST` [`Report`].
pub const PATH_OUTCOME: &str = "/v1/outcome";

/// The largest result that is passed on whole, in bytes of JSON. A larger one is cut to its size and digest.
pub const MAX_RESULT_BYTES: usize = 32 * 1024;
/// How deeply a result may nest. Kubernetes takes 10,000 levels, but our own readers 128, with what is around it.
pub const MAX_RESULT_DEPTH: usize = 100;
/// The largest error message that is passed on, in bytes; the rest is cut.
pub const MAX_MESSAGE_BYTES: usize = 2 * 1024;
/// How often a gateway writes to a stream of orders that has nothing to say, in seconds.
pub const PING_SECONDS: u64 = 10;

/// What the operator puts into the environment of the runner's container. None of it reaches the agent.
pub mod env {
    /// The gateway's URL.
    pub const GATEWAY_URL: &str = "KOCO_GATEWAY_URL";
    /// The certificate authority of the gateway, PEM.
    pub const GATEWAY_CA: &str = "KOCO_GATEWAY_CA";
    /// The file with the pod's token for the gateway. Read again for each request: the kubelet renews it.
    pub const TOKEN_FILE: &str = "KOCO_TOKEN_FILE";
    /// The folder for the runner's state and the agent's files, shared by all containers' restarts.
    pub const STATE_DIR: &str = "KOCO_STATE_DIR";
    /// The job's namespace.
    pub const NAMESPACE: &str = "KOCO_JOB_NAMESPACE";
    /// The job's name.
    pub const NAME: &str = "KOCO_JOB_NAME";
    /// The job's UID.
    pub const UID: &str = "KOCO_JOB_UID";
    /// The pod's epoch.
    pub const EPOCH: &str = "KOCO_EPOCH";
    /// Where the kubelet reads the termination message.
    pub const TERMINATION_LOG: &str = "KOCO_TERMINATION_LOG";
    /// All of the above.
    pub const ALL: [&str; 9] =
        [GATEWAY_URL, GATEWAY_CA, TOKEN_FILE, STATE_DIR, NAMESPACE, NAME, UID, EPOCH, TERMINATION_LOG];
}

/// Where things are in the agent's container.
pub mod paths {
    /// Read-only for the agent: the runner's binary.
    pub const BIN_DIR: &str = "/koco/bin";
    /// The runner's binary.
    pub const RUNNER: &str = "/koco/bin/koco-runner";
    /// The runner's state and the agent's files.
    pub const STATE_DIR: &str = "/koco/state";
    /// The projected token.
    pub const TOKEN_FILE: &str = "/koco/token/token";
}

/// Who speaks: part of every request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The job, flat.
    #[serde(flatten)]
    pub job: JobRef,
    /// The runner's epoch.
    pub epoch: i32,
}

/// A runner reports in.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Hello {
    /// Who.
    #[serde(flatten)]
    pub sender: Sender,
    /// What its agent does; [`RunnerState::Waiting`] at first.
    pub state: RunnerState,
    /// The highest command that it has carried out.
    pub seq: i64,
}

/// What a runner needs to know to run its job.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Kodosumi's execution id.
    pub fid: String,
    /// What the agent is to run.
    pub entry_point: String,
    /// For `KODO_INPUTS_FILE`.
    pub inputs: RawJson,
    /// For `KODO_EXTRA_FILE`.
    pub extra: RawJson,
    /// The attempt that this pod is for.
    pub attempt: i32,
    /// Whether it goes on with an evicted attempt.
    pub resumed: bool,
    /// How the agent is made to stand still.
    pub pause_policy: PausePolicy,
    /// A notice before the freeze, if wanted.
    #[serde(default)]
    pub pause_notice: Option<PauseNotice>,
    /// The grace period between SIGTERM and SIGKILL, in seconds.
    pub grace_seconds: i64,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_interval_millis: u64,
    /// How long the agent may still be active, in milliseconds, if that is limited.
    #[serde(default)]
    pub execution_limit_millis: Option<u64>,
}

/// What the gateway tells a runner. A newer command replaces an older one.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// The agent may start. Sent again on every new stream; a runner starts its agent once.
    Permit {
        /// The attempt, for `KODO_ATTEMPT`.
        attempt: i32,
    },
    /// The state wanted of the agent.
    Command {
        /// The state.
        desired: DesiredState,
        /// Its number; a lower one than already carried out is old.
        seq: i64,
    },
    /// The job is over, or another runner has taken its place: stop the agent, report to nobody, end.
    Stop {
        /// For the runner's log.
        why: String,
    },
    /// Nothing: proof that the connection lives.
    Ping {},
}

/// The runner and its agent live.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Who.
    #[serde(flatten)]
    pub sender: Sender,
    /// What its agent does.
    pub state: RunnerState,
    /// The highest command that it has carried out.
    pub seq: i64,
}

/// A command was carried out, the agent has started, or a command cannot be carried out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Confirm {
    /// Who.
    #[serde(flatten)]
    pub sender: Sender,
    /// What its agent does now.
    pub state: RunnerState,
    /// The highest command that this answers.
    pub seq: i64,
    /// Why it could not be carried out, if so.
    #[serde(default)]
    pub problem: Option<String>,
}

/// How the agent ended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Report {
    /// Who.
    #[serde(flatten)]
    pub sender: Sender,
    /// The highest command that it has carried out: an agent may end before its confirmation is on its way.
    #[serde(default)]
    pub seq: i64,
    /// How.
    #[serde(flatten)]
    pub ending: Ending,
}

/// How the agent ended: what a runner delivers, and what it leaves as the container's termination message.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// How.
    pub kind: TerminationType,
    /// Whether the agent had started at all.
    pub started: bool,
    /// Why, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
    /// Whether no policy may start it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_retryable: bool,
    /// The agent's exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What the agent left, already cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// How long the agent was active in this epoch, in milliseconds.
    #[serde(default)]
    pub active_millis: i64,
    /// Whether a termination message has only the result's size and digest, because it does not fit (4 KiB).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub result_omitted: bool,
}

/// A result, or its size and digest if it is longer than `most` bytes of JSON.
pub fn cut_result(result: &Value, most: usize) -> Value {
    let text = result.to_string();
    if text.len() <= most {
        return result.clone();
    }
    result_digest(&text)
}

/// What takes the place of a result, given as JSON text, that is not passed on whole.
pub fn result_digest(text: &str) -> Value {
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(text)));
    json!({ "truncated": true, "size": text.len(), "digest": digest })
}

/// The body of every answer that is an error.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// One stable word.
    pub reason: String,
    /// For people.
    pub message: String,
}
