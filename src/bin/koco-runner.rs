//! The first process of every agent's container. See [`koco::runner`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(koco::runner::main(std::env::args_os().skip(1).collect()))
}
