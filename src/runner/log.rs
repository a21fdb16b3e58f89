//! The runner's few lines on stderr, between the agent's own. Used by every file of the runner.
//! Never the environment, a token or the inputs: many users may read a pod's log.

use std::{fmt::Arguments, io::Write};

/// Writes one line. Unlike `eprintln!` it doesn't panic when stderr is closed.
pub fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "koco-runner: {line}");
}

/// An error with all its causes in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
