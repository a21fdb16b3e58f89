//! What the end of an agent means: a pure function of the evidence. Called by [`super::supervisor`] alone.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::machine::Stopped;
use crate::{
    api::{ErrorStatus, TerminationType},
    protocol::{
        error_types,
        runner::{Ending, MAX_MESSAGE_BYTES, MAX_RESULT_DEPTH},
    },
};

/// The longest error type, the same as in `nonRetryableErrorTypes`.
const MAX_TYPE_BYTES: usize = 128;

/// Types that say what was not the agent's doing, so that policies trust them: not for an agent's error file.
const RESERVED: [&str; 18] = [
    error_types::RESULT_TOO_DEEP,
    error_types::AGENT_KILLED,
    error_types::OOM_KILLED,
    error_types::START_FAILED,
    error_types::HEARTBEAT_TIMEOUT,
    error_types::EXECUTION_TIMEOUT,
    error_types::PENDING_TIMEOUT,
    error_types::DISRUPTED,
    error_types::RUNNER_LOST,
    error_types::INVALID_RESULT,
    error_types::WORKFLOW_CLOSED,
    error_types::EVICTED,
    error_types::CANCELLED,
    error_types::NOT_STARTED,
    error_types::JOB_GONE,
    error_types::SUPERSEDED,
    error_types::POD_REFUSED,
    error_types::API_SERVER,
];

/// How the agent's main process ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Exit {
    Code(i32),
    Signal {
        name: String,
        number: i32,
    },
    /// Its command could not be started.
    NotSpawned(String),
    /// There was none in this container's life.
    None,
}

/// `KODO_ERROR_FILE`, all of it optional.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentError {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub message: Option<String>,
    pub non_retryable: Option<bool>,
}

/// What a file of the agent's holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Left<T> {
    Nothing,
    Something(T),
    /// And why it can't be read.
    Unreadable(String),
    /// JSON that nests more deeply than is passed on: this many levels.
    TooDeep(usize),
}

/// All that is known when the agent has ended.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub exit: Exit,
    pub stopped: Option<Stopped>,
    /// Whether the kernel killed a process of the container for want of memory meanwhile.
    pub oom: bool,
    pub error: Left<AgentError>,
    /// Already cut.
    pub result: Left<Value>,
    pub active: Duration,
    pub limit: Option<Duration>,
}

/// What it means.
pub fn classify(evidence: Evidence) -> Ending {
    let Evidence { exit, stopped, oom, error, result, active, limit } = evidence;
    let mut ending = Ending {
        kind: TerminationType::Failed,
        started: true,
        error: None,
        non_retryable: false,
        exit_code: match exit {
            Exit::Code(code) => Some(code),
            _ => None,
        },
        result: None,
        active_millis: i64::try_from(active.as_millis()).unwrap_or(i64::MAX),
        result_omitted: false,
    };
    let how = match &exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal { name, .. } => format!("killed by {name}"),
        Exit::NotSpawned(why) => {
            ending.started = false;
            ending.non_retryable = true;
            return failed(
                ending,
                error_types::START_FAILED,
                format!("the agent's command could not be started: {why}"),
            );
        }
        Exit::None => "not started".to_owned(),
    };
    match (stopped, &exit, result) {
        (Some(Stopped::Timeout), ..) => {
            let limit = limit.unwrap_or(active).as_secs_f64();
            let message = format!("the agent was active for longer than timeouts.execution ({limit} s): {how}");
            failed(ending, error_types::EXECUTION_TIMEOUT, message)
        }
        (_, Exit::Code(0), Left::Something(value)) => succeeded(ending, Some(value)),
        // Told to end, many programs exit with 0 whatever they have done: only a result says that the work was.
        (Some(Stopped::Evict), ..) => Ending { kind: TerminationType::Evicted, ..ending },
        (Some(Stopped::Cancel), ..) => Ending { kind: TerminationType::Cancelled, ..ending },
        (Some(Stopped::Sigterm), ..) => {
            failed(ending, error_types::DISRUPTED, format!("the pod was told to end while the agent ran: {how}"))
        }
        (_, Exit::Code(0), Left::Nothing) => succeeded(ending, None),
        (_, Exit::Code(0), Left::Unreadable(why)) => {
            ending.non_retryable = true;
            failed(ending, error_types::INVALID_RESULT, format!("the agent's result file is of no use: {why}"))
        }
        (_, Exit::Code(0), Left::TooDeep(levels)) => {
            ending.non_retryable = true;
            let most = MAX_RESULT_DEPTH;
            let message =
                format!("the agent's result nests {levels} levels deep, and {most} are the most that is passed on");
            failed(ending, error_types::RESULT_TOO_DEEP, message)
        }
        (_, Exit::Signal { number: 9, .. }, _) if oom => {
            failed(ending, error_types::OOM_KILLED, "the kernel killed the agent for want of memory".to_owned())
        }
        (_, Exit::Signal { .. }, _) => failed(ending, error_types::AGENT_KILLED, how),
        _ => failed_by_itself(ending, error, &how, oom),
    }
}

/// The container was started again: its agent ran already, and nobody knows how it ended.
pub fn restarted() -> Ending {
    let message = "the container was restarted after its agent had started; it is not started twice".to_owned();
    failed(blank(true), error_types::RUNNER_LOST, message)
}

/// The pod ended before its agent started.
pub fn not_started(why: &str) -> Ending {
    failed(blank(false), error_types::NOT_STARTED, why.to_owned())
}

/// The job was cancelled before its agent started.
pub fn cancelled_before_start() -> Ending {
    Ending { kind: TerminationType::Cancelled, ..blank(false) }
}

/// The exit code of the runner: the agent's, and never 0 unless it succeeded.
pub fn exit_code(ending: &Ending, exit: &Exit) -> u8 {
    match (ending.kind, exit) {
        (TerminationType::Succeeded, _) => 0,
        (_, Exit::Code(code)) if code & 0xff != 0 => (code & 0xff) as u8,
        (_, Exit::Signal { number, .. }) => (128 + (number & 0x7f)) as u8,
        _ => 1,
    }
}

/// At most so many bytes, whole characters.
pub fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let mut end = bytes.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

fn blank(started: bool) -> Ending {
    Ending {
        kind: TerminationType::Failed,
        started,
        error: None,
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 0,
        result_omitted: false,
    }
}

fn succeeded(ending: Ending, result: Option<Value>) -> Ending {
    Ending { kind: TerminationType::Succeeded, result, ..ending }
}

fn failed(ending: Ending, kind: &str, mut message: String) -> Ending {
    cut(&mut message, MAX_MESSAGE_BYTES);
    Ending { kind: TerminationType::Failed, error: Some(ErrorStatus { kind: kind.to_owned(), message }), ..ending }
}

fn failed_by_itself(mut ending: Ending, error: Left<AgentError>, how: &str, oom: bool) -> Ending {
    let (mut kind, mut message) = (error_types::AGENT_FAILED.to_owned(), how.to_owned());
    match error {
        Left::Nothing => {}
        Left::Unreadable(why) => message = format!("{how}; its error file was not readable: {why}"),
        Left::TooDeep(levels) => message = format!("{how}; its error file nests {levels} levels deep"),
        Left::Something(said) => {
            ending.non_retryable = said.non_retryable.unwrap_or(false);
            message = said.message.filter(|m| !m.is_empty()).unwrap_or(message);
            match said.kind.filter(|k| !k.is_empty()) {
                Some(reserved) if RESERVED.contains(&reserved.as_str()) => {
                    message = format!("{message} (type {reserved} is not for an agent to use)");
                }
                Some(own) => kind = own,
                None => {}
            }
        }
    }
    if oom {
        message = format!("the kernel killed a process of the agent for want of memory; {message}");
    }
    cut(&mut kind, MAX_TYPE_BYTES);
    failed(ending, &kind, message)
}

#[cfg(test)]
mod tests;
