//! What the end of an agent means: a pure function of the [`ExitFacts`]. Called by [`super::supervisor`] alone.

use std::{io, time::Duration};

use nix::errno::Errno;
use serde::Deserialize;
use serde_json::Value;

use super::machine::Stopped;
use crate::{
    api::{BudgetLimit, ErrorStatus, TerminationType, Usage, whole_millis},
    protocol::{
        error_types,
        runner::{AgentEnd, MAX_MESSAGE_BYTES, MAX_RESULT_DEPTH, shorten},
    },
};

/// The longest error type, the same as in `nonRetryableErrorTypes`.
const MAX_TYPE_BYTES: usize = 128;

/// How the agent's main process ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Exit {
    Code(i32),
    Signal {
        name: String,
        number: i32,
    },
    /// Its command can't be started, in this pod or in another.
    NotSpawned(String),
    /// Its inputs can't be put together, or don't fit the job's schema, in this pod or in another: the error type, and why.
    InvalidInputs(&'static str, String),
    /// It could not be started because of trouble of the node, or of the moment.
    NotStarted(String),
    /// It was started, and outlives SIGKILL: the runner may not signal another user's process.
    Outlived,
    /// It was never started in this container.
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

/// The contents of a file that the agent wrote.
#[derive(Clone, Debug, PartialEq)]
pub enum FileContents<T> {
    Nothing,
    Something(T),
    /// With the reason.
    Unreadable(String),
    /// JSON that nests too deeply: this many levels.
    TooDeep(usize),
}

/// The facts about an agent's exit.
#[derive(Clone, Debug)]
pub struct ExitFacts {
    pub exit: Exit,
    pub stopped: Option<Stopped>,
    /// Whether the kernel killed a process of the container because it was out of memory.
    pub oom: bool,
    pub error: FileContents<AgentError>,
    /// Already cut to the limit.
    pub result: FileContents<Value>,
    pub active: Duration,
    pub limit: Option<Duration>,
    /// What the agent has reported to have used.
    pub usage: Usage,
    /// Which limit of the job's budget is exceeded, if one is.
    pub over: Option<BudgetLimit>,
}

/// Derives the agent's end.
pub fn classify(facts: ExitFacts) -> AgentEnd {
    let ExitFacts { exit, stopped, oom, error, result, active, limit, usage, over } = facts;
    let mut ending = AgentEnd {
        kind: TerminationType::Failed,
        started: true,
        error: None,
        non_retryable: false,
        exit_code: match exit {
            Exit::Code(code) => Some(code),
            _ => None,
        },
        result: None,
        active_millis: whole_millis(active),
        usage,
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
        Exit::InvalidInputs(kind, why) => {
            ending.started = false;
            ending.non_retryable = true;
            return failed(ending, kind, why.clone());
        }
        Exit::NotStarted(why) => {
            ending.started = false;
            return failed(ending, error_types::NOT_STARTED, format!("the agent could not be started: {why}"));
        }
        Exit::Outlived => "it outlived SIGKILL, and ends with its container".to_owned(),
        Exit::None => "not started".to_owned(),
    };
    match (stopped, &exit, result) {
        (Some(Stopped::Timeout), ..) => {
            let limit = limit.unwrap_or(active).as_secs_f64();
            let message = format!("the agent was active for longer than timeouts.execution ({limit} s): {how}");
            failed(ending, error_types::EXECUTION_TIMEOUT, message)
        }
        (Some(Stopped::Budget), ..) => {
            ending.non_retryable = true;
            let over = over.map_or_else(|| "the job's budget is exceeded".into(), |over| over.to_string());
            failed(ending, error_types::BUDGET_EXCEEDED, format!("{over}: {how}"))
        }
        (_, Exit::Code(0), FileContents::Something(value)) => succeeded(ending, Some(value)),
        // On SIGTERM many programs exit with 0 in any case: only a result shows that the work was done.
        (Some(Stopped::Evict), ..) => AgentEnd { kind: TerminationType::Evicted, ..ending },
        (Some(Stopped::Cancel), ..) => AgentEnd { kind: TerminationType::Cancelled, ..ending },
        (Some(Stopped::Sigterm), ..) => {
            failed(ending, error_types::DISRUPTED, format!("the pod was terminated while the agent ran: {how}"))
        }
        (Some(Stopped::Gone), ..) => {
            failed(ending, error_types::DISRUPTED, format!("the gateway stopped the runner while the agent ran: {how}"))
        }
        (_, Exit::Code(0), FileContents::Nothing) => succeeded(ending, None),
        (_, Exit::Code(0), FileContents::Unreadable(why)) => {
            ending.non_retryable = true;
            failed(ending, error_types::INVALID_RESULT, format!("the agent's result file is invalid: {why}"))
        }
        (_, Exit::Code(0), FileContents::TooDeep(levels)) => {
            ending.non_retryable = true;
            let most = MAX_RESULT_DEPTH;
            let message = format!("the agent's result nests {levels} levels deep, more than the {most} allowed");
            failed(ending, error_types::RESULT_TOO_DEEP, message)
        }
        (_, Exit::Signal { number: 9, .. }, _) if oom => failed(
            ending,
            error_types::OOM_KILLED,
            "the kernel killed the agent because it was out of memory".to_owned(),
        ),
        (_, Exit::Signal { .. }, _) => failed(ending, error_types::AGENT_KILLED, how),
        _ => failed_by_itself(ending, error, &how, oom),
    }
}

/// Whether a command fails to start with this error wherever it is tried. Any other is trouble of the node, such as a
/// full disk, or of the moment, such as a limit of processes.
pub fn is_of_the_command(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.map_or(error.kind() == io::ErrorKind::InvalidInput, |errno| {
        use Errno::{EACCES, EINVAL, ELOOP, ENOENT, ENOEXEC, ENOTDIR, EPERM};
        matches!(errno, ENOENT | EACCES | ENOEXEC | ENOTDIR | ELOOP | EINVAL | EPERM)
    })
}

/// The pod ended before its agent started.
pub fn not_started(why: &str) -> AgentEnd {
    failed(blank(false), error_types::NOT_STARTED, why.to_owned())
}

/// Nothing is left of the job's budget, so its agent was not started.
pub fn budget_used_up(left: Option<BudgetLimit>) -> AgentEnd {
    let which = left.map_or_else(|| "the job's budget is used up".into(), |limit| format!("{limit}: it is used up"));
    let message = format!("{which}, and the agent is not started");
    AgentEnd { non_retryable: true, ..failed(blank(false), error_types::BUDGET_EXCEEDED, message) }
}

/// The job was cancelled before its agent started.
pub fn cancelled_before_start() -> AgentEnd {
    AgentEnd { kind: TerminationType::Cancelled, ..blank(false) }
}

/// The exit code of the runner: the agent's, and never 0 unless it succeeded.
pub fn exit_code(ending: &AgentEnd, exit: &Exit) -> u8 {
    match (ending.kind, exit) {
        (TerminationType::Succeeded, _) => 0,
        (_, Exit::Code(code)) if code & 0xff != 0 => (code & 0xff) as u8,
        (_, Exit::Signal { number, .. }) => (128 + (number & 0x7f)) as u8,
        _ => 1,
    }
}

fn blank(started: bool) -> AgentEnd {
    AgentEnd {
        kind: TerminationType::Failed,
        started,
        error: None,
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 0,
        usage: Usage::default(),
        result_omitted: false,
    }
}

fn succeeded(ending: AgentEnd, result: Option<Value>) -> AgentEnd {
    AgentEnd { kind: TerminationType::Succeeded, result, ..ending }
}

fn failed(ending: AgentEnd, kind: &str, mut message: String) -> AgentEnd {
    shorten(&mut message, MAX_MESSAGE_BYTES);
    AgentEnd { kind: TerminationType::Failed, error: Some(ErrorStatus { kind: kind.to_owned(), message }), ..ending }
}

fn failed_by_itself(mut ending: AgentEnd, error: FileContents<AgentError>, how: &str, oom: bool) -> AgentEnd {
    let (mut kind, mut message) = (error_types::AGENT_FAILED.to_owned(), how.to_owned());
    match error {
        FileContents::Nothing => {}
        FileContents::Unreadable(why) => message = format!("{how}; its error file was not readable: {why}"),
        FileContents::TooDeep(levels) => message = format!("{how}; its error file nests {levels} levels deep"),
        FileContents::Something(said) => {
            ending.non_retryable = said.non_retryable.unwrap_or(false);
            message = said.message.filter(|m| !m.is_empty()).unwrap_or(message);
            match said.kind.filter(|k| !k.is_empty()) {
                Some(reserved) if error_types::is_reserved(&reserved) => {
                    message = format!("{message} (type {reserved} is not for an agent to use)");
                }
                Some(own) => kind = own,
                None => {}
            }
        }
    }
    if oom {
        message = format!("the kernel killed a process of the agent because it was out of memory; {message}");
    }
    shorten(&mut kind, MAX_TYPE_BYTES);
    failed(ending, &kind, message)
}

#[cfg(test)]
mod tests;
