//! The runner's few lines on stderr, between the agent's own. Used by every file of the runner.
//! Never the environment, a token or the inputs: what is logged here anybody may read.

use std::{fmt::Arguments, io::Write};

/// Writes one line. A log that nobody reads any more is no reason to fail, as it would be for `eprintln!`.
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
