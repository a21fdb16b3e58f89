//! The contract between a runner and the gateway: HTTP/1.1 over TLS 1.3 with a client certificate, JSON.
//!
//! A runner is known by its certificate's Ed25519 key ([`super::key`]); the rest of the certificate says nothing. The key
//! is recorded at the first registration, which carries the bearer token of the pod, too. No other request needs the
//! token, and no other key is accepted afterwards.
//!
//! Paths are those of the run, `/v1/namespaces/NAMESPACE/agentruns/NAME/VERB` ([`RunPath`]):
//!
//! | request | body | response |
//! |---|---|---|
//! | `POST register` | [`Register`] | 200 [`Job`], or `null` for a runner that has it; repeated until answered, and again after every lost connection |
//! | `GET messages` | | 200 and a stream of [`ControlMessage`]s, one JSON object a line |
//! | `POST heartbeat` | [`Heartbeat`] | 204; 410 the run is closed: stop |
//! | `POST confirm` | [`Confirm`] | 204; 409 no such command was given |
//! | `POST end` | [`EndReport`] | 204 recorded; 409 another end of this run was recorded first |
//! | `POST events` | [`super::events`] | see there; also after the end, as long as the AgentRun is there |
//!
//! 401: the key is not known, or the token is refused. 403: the run is another runner's. 410: the run is closed or gone,
//! or its job has ended. 429: too many requests, and 503: try again. Errors carry an [`ErrorResponse`]. A runner stops its
//! agent after 410 only; one whose agent has not started gives up after 403 and 404, too.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::events::EventsConfig;
use crate::api::{
    Budget, DesiredState, ErrorStatus, PauseNotice, PausePolicy, RawJson, RunnerState, Spent, TerminationType, Usage,
};

/// What a runner may ask of its run, as the last part of a path.
pub mod verb {
    /// `POST` [`super::Register`].
    pub const REGISTER: &str = "register";
    /// `GET` a stream of [`super::ControlMessage`]s.
    pub const MESSAGES: &str = "messages";
    /// `POST` [`super::Heartbeat`].
    pub const HEARTBEAT: &str = "heartbeat";
    /// `POST` [`super::Confirm`].
    pub const CONFIRM: &str = "confirm";
    /// `POST` [`super::EndReport`].
    pub const END: &str = "end";
    /// `POST` a batch of [`super::super::events`].
    pub const EVENTS: &str = "events";
}

/// Names the AgentRun that a request is about.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunPath {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl RunPath {
    /// The pattern of all paths of this verb, in the router's syntax.
    pub fn pattern(verb: &str) -> String {
        Self { namespace: "{namespace}".into(), name: "{name}".into() }.path(verb)
    }

    /// The path of a request.
    pub fn path(&self, verb: &str) -> String {
        format!("/v1/namespaces/{}/agentruns/{}/{verb}", self.namespace, self.name)
    }
}

impl fmt::Display for RunPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The largest result that is passed on whole, in bytes of JSON. A larger one is replaced by its size and digest.
pub const MAX_RESULT_BYTES: usize = 32 * 1024;
/// How deeply a result may nest. Kubernetes accepts 10,000 levels, but our JSON parser only 128, including the object
/// that holds the result.
pub const MAX_RESULT_DEPTH: usize = 100;
/// The most that the sources of further inputs may have, all keys together, in bytes: as much as one Secret.
pub const MAX_INPUTS_FROM_BYTES: usize = 1024 * 1024;
/// How deeply JSON in them may nest, as results.
pub const MAX_INPUTS_DEPTH: usize = MAX_RESULT_DEPTH;
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
    /// The file with the pod's token for the gateway. The runner removes it before the agent starts.
    pub const TOKEN_FILE: &str = "KOCO_TOKEN_FILE";
    /// The folder for the runner's state and the agent's files, kept across restarts of the container.
    pub const STATE_DIR: &str = "KOCO_STATE_DIR";
    /// The namespace of job, run and pod.
    pub const NAMESPACE: &str = "KOCO_RUN_NAMESPACE";
    /// The name of the pod's AgentRun.
    pub const RUN: &str = "KOCO_RUN_NAME";
    /// Where the kubelet reads the termination message.
    pub const TERMINATION_LOG: &str = "KOCO_TERMINATION_LOG";
    /// How many bytes of it the kubelet keeps.
    pub const TERMINATION_BYTES: &str = "KOCO_TERMINATION_BYTES";
    /// All of the above, of which an agent has none.
    pub const ALL: [&str; 8] =
        [GATEWAY_URL, GATEWAY_CA, TOKEN_FILE, STATE_DIR, NAMESPACE, RUN, TERMINATION_LOG, TERMINATION_BYTES];

    /// The agent's, if it continues an attempt in a new pod: 1.
    pub const RESUMED: &str = "KODO_RESUMED";
    /// The agent's, if its job has a `pauseNotice`: the name of the signal.
    pub const PAUSE_SIGNAL: &str = "KODO_PAUSE_SIGNAL";
    /// What an agent has only where the runner says so.
    pub const SOMETIMES: [&str; 2] = [RESUMED, PAUSE_SIGNAL];
}

/// Where things are in the agent's container.
pub mod paths {
    /// Read-only for the agent: the runner's binary.
    pub const BIN_DIR: &str = "/koco/bin";
    /// The runner's binary.
    pub const RUNNER: &str = "/koco/bin/koco-runner";
    /// The runner's state and the agent's files.
    pub const STATE_DIR: &str = "/koco/state";
    /// In it: the files with the agent's inputs.
    pub const AGENT_INPUTS_DIR: &str = "/koco/state/in";
    /// Beside [`STATE_DIR`]: a folder for each source of further inputs.
    pub const INPUTS_DIR: &str = "/koco/inputs";
    /// In memory, and empty once the agent runs: hands the token from the init container to the runner.
    pub const TOKEN_DIR: &str = "/koco/token";
    /// The token, in a folder of its own: the volume's is sticky, so that only a file's owner may remove it there.
    pub const TOKEN_FILE: &str = "/koco/token/once/token";
    /// In the init container only: where the kubelet projects the token.
    pub const PROJECTED_TOKEN_DIR: &str = "/koco/projected";
    /// The token there.
    pub const PROJECTED_TOKEN_FILE: &str = "/koco/projected/token";
}

/// A runner registers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// Its agent's state; [`RunnerState::Waiting`] at first.
    pub state: RunnerState,
    /// The highest command that it has carried out.
    pub generation: i64,
    /// Whether it got its job before: then it needs no answer, and its inputs are not read again.
    #[serde(default)]
    pub has_job: bool,
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
    /// For each source of further inputs, in its order, what its keys' names begin with. They are mounted at
    /// [`paths::INPUTS_DIR`], each in a folder with its number, from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs_from: Vec<String>,
    /// The JSON Schema of all of them together, if there are such sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs_schema: Option<RawJson>,
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
    /// How much the job's agents may use, over all attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What they have used up of it in earlier runs.
    #[serde(default, skip_serializing_if = "Spent::is_empty")]
    pub spent: Spent,
    /// What to do with the agent's events; `None` if this installation keeps none.
    #[serde(default)]
    pub events: Option<EventsConfig>,
    /// Variables for the agent, where its environment has none of that name: its trace, and where to send its spans.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// What the gateway sends to a runner. A newer command replaces an older one.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum ControlMessage {
    /// The agent may start. Sent again on every new stream; a runner starts its agent once.
    Grant {
        /// The attempt, for `KODO_ATTEMPT`.
        attempt: i32,
    },
    /// The desired state of the agent.
    Command {
        /// The state.
        desired: DesiredState,
        /// Its number; a runner ignores one lower than the last that it carried out.
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
    /// Its agent's state.
    pub state: RunnerState,
    /// The highest command that it has carried out.
    pub generation: i64,
    /// What its agent has reported last of its progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Whether it comes between two of the regular heartbeats, because of its progress alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub between: bool,
}

/// What an agent reports of its progress.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// How much of its work is done, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// What it is doing, already cut to the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it has used since it started.
    #[serde(default, skip_serializing_if = "Usage::is_empty")]
    pub usage: Usage,
}

/// A command was carried out, the agent has started, or a command cannot be carried out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Confirm {
    /// Its agent's state now.
    pub state: RunnerState,
    /// The highest command that this acknowledges.
    pub generation: i64,
    /// Why it could not be carried out, if so.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A runner reports the end of its agent.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EndReport {
    /// The highest command that it has carried out: an agent may end before its confirmation is sent.
    #[serde(default)]
    pub generation: i64,
    /// How it ended.
    pub end: AgentEnd,
    /// What its agent has reported last of its progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How many events the run has: none comes after these. `None` if none are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// How many of its agent's events are not known to be stored, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_missing: Option<u64>,
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
    /// What the agent has reported to have used in this run.
    #[serde(default, skip_serializing_if = "Usage::is_empty")]
    pub usage: Usage,
    /// Whether a termination message has only the result's size and digest, because it does not fit.
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

/// Cuts a text to `bytes` at most, at a character boundary, and marks that it was.
pub fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
}

/// The body of every error response.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// One stable word.
    pub reason: String,
    /// Human-readable.
    pub message: String,
}
