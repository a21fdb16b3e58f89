//! The process in the pod: `koco-runner`. It starts the agent as its child, freezes, thaws and stops it as the gateway
//! commands, and reports its end. It knows neither Kubernetes nor Temporal, only [`crate::protocol::runner`].
//!
//! Called by `bin/koco-runner.rs` alone. Decisions are pure and tested without a process: [`machine`] (events to
//! actions), [`progress`] (an agent's reports against its budget) and [`ending`] (exit to result). The I/O decides nothing: [`process`], [`procfs`], [`files`], [`gateway`],
//! [`inputs`], [`link`], [`signals`]. [`identity`] keeps its key from the agent. [`events`] delivers what the agent prints and tells,
//! beside all that. [`supervisor`] joins them.

mod config;
mod ending;
mod events;
mod files;
#[cfg(test)]
mod fuzz_tests;
mod gateway;
mod identity;
mod inputs;
mod install;
mod link;
mod log;
mod machine;
mod process;
mod procfs;
mod progress;
mod report;
mod signals;
mod supervisor;
mod tls;

use std::{ffi::OsString, path::Path};

const USAGE: &str = "usage: koco-runner install BIN_DIR TOKEN COPY | koco-runner run -- COMMAND [ARGUMENT...]";

/// The whole program: takes the command line without the program's name, returns the exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    let mut args = args.into_iter();
    let verb = args.next();
    let rest: Vec<OsString> = args.collect();
    match (verb.as_ref().and_then(|v| v.to_str()), rest.as_slice()) {
        (Some("install"), [bin_dir, token, copy]) => {
            match install::install(Path::new(bin_dir), Path::new(token), Path::new(copy)) {
                Ok(()) => 0,
                Err(error) => {
                    log::say(format_args!("cannot install into {}: {error}", bin_dir.display()));
                    1
                }
            }
        }
        (Some("run"), [dashes, program, arguments @ ..]) if dashes == "--" => {
            supervisor::main(program.clone(), arguments.to_vec())
        }
        _ => {
            log::say(format_args!("{USAGE}"));
            2
        }
    }
}
