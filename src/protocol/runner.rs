//! The contract between a runner and the gateway: HTTP/1.1 over TLS, JSON, bearer token of the pod.
//!
//! | request | body | response |
//! |---|---|---|
//! | `POST /v1/hello` | [`Register`] | 200 [`Job`]; repeated until answered, and again after every lost connection |
//! | `POST /v1/orders` | [`Sender`] | 200 and a stream of [`ControlMessage`]s, one JSON object a line |
//! | `POST /v1/heartbeat` | [`Heartbeat`] | 204; 410 the run is closed: stop |
//! | `POST /v1/confirm` | [`Confirm`] | 204; 409 no such command was given |
//! | `POST /v1/outcome` | [`EndReport`] | 204 recorded; 409 another end of this run was recorded first |
//!
//! 401: the token is refused. 403: the run belongs to another pod. 410: the run is closed or gone, or its job has
//! ended. 429: this pod sends too many requests, and 503: try again. Errors carry an [`ErrorResponse`]. A runner stops
//! its agent after 410 only; one whose agent has not started gives up after 403 and 404, too.
//!
//! Some paths and field names on the wire are older than the words used here; they stay, because runners live for days.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::workflow::JobRef;
use crate::api::{DesiredState, ErrorStatus, PauseNotice, PausePolicy, RawJson, RunnerState, TerminationType};

/// `POST` [`Register`].
pub const PATH_REGISTER: &str = "/v1/hello";
/// `POST` a [`Sender`], get a stream of [`ControlMessage`]s.
pub const PATH_MESSAGES: &str = "/v1/orders";
/// `POST` [`Heartbeat`].
pub const PATH_HEARTBEAT: &str = "/v1/heartbeat";
/// `POST` [`Confirm`].
pub const PATH_CONFIRM: &str = "/v1/confirm";
/// `POST` [`EndReport`].
pub const PATH_END: &str = "/v1/outcome";

/// The largest result that is passed on whole, in bytes of JSON. A larger one is replaced by its size and digest.
pub const MAX_RESULT_BYTES: usize = 32 * 1024;
/// How deeply a result may nest. Kubernetes accepts 10,000 levels, but our JSON parser only 128, including the object
/// that holds the result.
pub const MAX_RESULT_DEPTH: usize = 100;
/// The largest error message that is passed on, in bytes; the rest is cut.
pub const MAX_MESSAGE_BYTES: usize = 2 * 1024;
/// How often a gateway sends [`ControlMessage::Ping`] on an idle stream, in seconds.
pub const PING_SECONDS: u64 = 10;

/// What the operator puts into the environment of the runner's container. None of it reaches the agent.
pub mod env {
    /// The gateway's URL.
    pub const GATEWAY_URL: &str = "KOCO_GATEWAY_URL";
    /// The certificate authority of the gateway, PEM.
    pub const GATEWAY_CA: &str = "KOCO_GATEWAY_CA";
    /// The file with the pod's token for the gateway. Read again for each request: the kubelet renews it.
    pub const TOKEN_FILE: &str = "KOCO_TOKEN_FILE";
    /// The folder for the runner's state and the agent's files, kept across restarts of the container.
    pub const STATE_DIR: &str = "KOCO_STATE_DIR";
    /// The job's namespace.
    pub const NAMESPACE: &str = "KOCO_JOB_NAMESPACE";
    /// The job's name.
    pub const NAME: &str = "KOCO_JOB_NAME";
    /// The job's UID.
    pub const UID: &str = "KOCO_JOB_UID";
    /// The number of the pod's run.
    pub const RUN_NUMBER: &str = "KOCO_EPOCH";
    /// Where the kubelet reads the termination message.
    pub const TERMINATION_LOG: &str = "KOCO_TERMINATION_LOG";
    /// All of the above.
    pub const ALL: [&str; 9] =
        [GATEWAY_URL, GATEWAY_CA, TOKEN_FILE, STATE_DIR, NAMESPACE, NAME, UID, RUN_NUMBER, TERMINATION_LOG];
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

/// Names the runner that sends a request: part of every request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The job; its fields are inlined.
    #[serde(flatten)]
    pub job: JobRef,
    /// The number of its run.
    #[serde(rename = "epoch")]
    pub run: i32,
}

/// A runner registers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Register {
    /// The runner.
    #[serde(flatten)]
    pub sender: Sender,
    /// Its agent's state; [`RunnerState::Waiting`] at first.
    pub state: RunnerState,
    /// The highest command that it has carried out.
    #[serde(rename = "seq")]
    pub generation: i64,
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
    /// Whether it continues an evicted attempt.
    pub resumed: bool,
    /// How a pause stops the agent.
    pub pause_policy: PausePolicy,
    /// A notice before the freeze, if configured.
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

/// What the gateway sends to a runner. A newer command replaces an older one.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum ControlMessage {
    /// The agent may start. Sent again on every new stream; a runner starts its agent once.
    #[serde(rename = "permit")]
    Grant {
        /// The attempt, for `KODO_ATTEMPT`.
        attempt: i32,
    },
    /// The desired state of the agent.
    Command {
        /// The state.
        desired: DesiredState,
        /// Its number; a runner ignores one lower than the last that it carried out.
        #[serde(rename = "seq")]
        generation: i64,
    },
    /// The job has ended, or another runner has taken its place: stop the agent and exit without a report.
    Stop {
        /// For the runner's log.
        why: String,
    },
    /// Keeps the connection alive.
    Ping {},
}

/// The runner and its agent are alive.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The runner.
    #[serde(flatten)]
    pub sender: Sender,
    /// Its agent's state.
    pub state: RunnerState,
    /// The highest command that it has carried out.
    #[serde(rename = "seq")]
    pub generation: i64,
}

/// A command was carried out, the agent has started, or a command cannot be carried out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Confirm {
    /// The runner.
    #[serde(flatten)]
    pub sender: Sender,
    /// Its agent's state now.
    pub state: RunnerState,
    /// The highest command that this acknowledges.
    #[serde(rename = "seq")]
    pub generation: i64,
    /// Why it could not be carried out, if so.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A runner reports the end of its agent.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EndReport {
    /// The runner.
    #[serde(flatten)]
    pub sender: Sender,
    /// The highest command that it has carried out: an agent may end before its confirmation is sent.
    #[serde(default, rename = "seq")]
    pub generation: i64,
    /// How it ended.
    #[serde(flatten)]
    pub end: AgentEnd,
}

/// How the agent ended: in a runner's report, and in the container's termination message.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentEnd {
    /// The kind of end.
    pub kind: TerminationType,
    /// Whether the agent was started.
    pub started: bool,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
    /// Whether no retry policy may start it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_retryable: bool,
    /// The agent's exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The agent's result, already cut to the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// How long the agent was active in this run, in milliseconds.
    #[serde(default)]
    pub active_millis: i64,
    /// Whether a termination message has only the result's size and digest, because it does not fit (4 KiB).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub result_omitted: bool,
}

/// A result, or its size and digest if it is longer than `limit` bytes of JSON.
pub fn cut_result(result: &Value, limit: usize) -> Value {
    let text = result.to_string();
    if text.len() <= limit {
        return result.clone();
    }
    result_digest(&text)
}

/// Replaces a result, given as JSON text, that is not passed on whole.
pub fn result_digest(text: &str) -> Value {
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(text)));
    json!({ "truncated": true, "size": text.len(), "digest": digest })
}

/// Cuts a text to `limit` bytes at most, at a character boundary.
pub fn cut_text(text: &str, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[..end].into()
}

/// The body of every error response.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// One stable word.
    pub reason: String,
    /// Human-readable.
    pub message: String,
}
