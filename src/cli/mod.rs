//! The command line: parses, and starts the roles. Called by the binary `koco` alone, and the only module that may use all
//! others.

mod crd;
mod roles;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs AI agents as jobs on Kubernetes, with durable execution by Temporal.
#[derive(Parser)]
#[command(name = "koco", version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile AgentJobs: submit, mirror, write status, collect garbage. One leads, others stand by
    Controller(Box<roles::Controller>),
    /// Run AgentWorkflow and its activities. Any number, on any task queue
    TemporalWorker(Box<roles::Worker>),
    /// Serve runner pods: the only part of ours that they talk to. Any number
    Gateway(Box<roles::Gateway>),
    /// Controller, worker and gateway in one process: for small installs and for trying out
    Operator(Box<roles::Operator>),
    /// Print the CustomResourceDefinition as YAML
    Crd,
}

/// Parses the command line and runs it to its end.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Controller(role) => roles::run(*role),
        Command::TemporalWorker(role) => roles::run(*role),
        Command::Gateway(role) => roles::run(*role),
        Command::Operator(role) => roles::run(*role),
        Command::Crd => crd::print(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("koco: {error:#}");
            ExitCode::FAILURE
        }
    }
}
