//! `koco check-inputs`: judges inputs by a schema, in a process of its own with bounds. Called by the controller, which may
//! kill it; see [`crate::controller::agentjob`].

use std::process::ExitCode;

use anyhow::Context;
use nix::sys::resource::{Resource, setrlimit};

use crate::{
    inputs_schema::judge,
    protocol::check_inputs::{MEMORY_BYTES, PROCESSOR_SECONDS, Question, UNFIT},
};

/// Reads a question from standard input, and answers by the exit code, with the reason on standard output.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    for (resource, soft, hard) in [
        // At the hard limit it would be a SIGKILL, which may come from anybody.
        (Resource::RLIMIT_CPU, PROCESSOR_SECONDS, PROCESSOR_SECONDS + 1),
        (Resource::RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES),
        // Its memory has users' inputs.
        (Resource::RLIMIT_CORE, 0, 0),
    ] {
        setrlimit(resource, soft, hard).context("its limits")?;
    }
    let question: Question = serde_json::from_reader(std::io::stdin().lock()).context("standard input")?;
    match judge(&question.schema, &question.inputs) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("{error}");
            Ok(ExitCode::from(UNFIT))
        }
    }
}
