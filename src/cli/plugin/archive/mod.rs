//! `archive`: what became of jobs, also of those that are gone, from the server. [`list`] shows many, [`get`] one, [`delete`]
//! removes some for good; [`find`] knows which execution a name means.

mod delete;
pub(super) mod find;
mod get;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

use super::connect::Session;

pub(super) const HELP: &str = "\
An execution is a job as koco's server keeps it, by its fid: 24 hex digits that no other job has. What may be read is up \
to the service account that is asked as, see --service-account.";

#[derive(Subcommand)]
pub(super) enum Command {
    /// List executions, the newest first
    List(list::Arguments),
    /// Show what became of a job
    Get(get::Arguments),
    /// Delete executions from the archive, with their events. Final
    #[command(after_help = delete::HELP)]
    Delete(delete::Arguments),
}

impl Command {
    /// Whether it changes something.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Delete(_))
    }
}

pub(super) async fn run(session: &Session, command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(arguments) => list::run(session, arguments).await?,
        Command::Get(arguments) => get::run(session, arguments).await?,
        Command::Delete(arguments) => return delete::run(session, arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// An execution as `-o name` prints it.
fn reference(fid: &str) -> String {
    format!("execution/{}", super::text::plain(fid))
}
