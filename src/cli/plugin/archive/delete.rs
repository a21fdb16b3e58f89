//! `archive delete`: removes executions and their events for good, after a question.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use clap::Args;

use super::{
    super::{
        Usage,
        connect::Session,
        output::Printed,
        server::{Access, Server},
        text::{plain, say},
    },
    find,
    list::word,
    reference,
};

pub(super) const HELP: &str = "\
Only the execution of a job that is gone can be deleted: a job that exists would be archived again.

Exit codes:
  0    all are deleted
  1    not all are
  2    wrong usage, or no answer to the question";

#[derive(Args)]
pub(in super::super) struct Arguments {
    /// The executions, by their fids, also as `archive list -o name` prints them
    #[arg(value_name = "FID", value_parser = find::fid, required = true)]
    fids: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Delete nothing, and print what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    access: Access,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut fids = arguments.fids.clone();
    fids.sort();
    fids.dedup();
    if !arguments.yes && !arguments.dry_run && !is_sure(fids.len())? {
        say("nothing is deleted");
        return Ok(ExitCode::FAILURE);
    }
    let mut server = Server::find(session, &arguments.access).await?;
    let (mut printed, mut failed) = (Printed::default(), false);
    for fid in &fids {
        let path = format!("/api/v1/executions/{fid}");
        let line = if arguments.dry_run {
            server.get(&path, &[]).await.map(|found| {
                let job = format!("{}/{}", word(&found, "namespace"), word(&found, "name"));
                match found["deletionTime"].is_string() {
                    true => Ok(format!("{} of {} deleted (dry run)", reference(fid), plain(&job))),
                    false => Err(format!("{job} still exists: delete it first")),
                }
            })
        } else {
            server.delete(&path).await.map(|()| Ok(format!("{} deleted", reference(fid))))
        };
        // One that can't be deleted doesn't hold up the others.
        match line {
            Ok(Ok(line)) => printed.note(writeln!(io::stdout(), "{line}")),
            Ok(Err(why)) => {
                say(format_args!("error: {}: {why}", reference(fid)));
                failed = true;
            }
            Err(trouble) => {
                say(format_args!("error: {}: {trouble}", reference(fid)));
                failed = true;
            }
        }
    }
    printed.end()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Asks whether that many are to be deleted.
fn is_sure(count: usize) -> anyhow::Result<bool> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(Usage("to delete without being asked, say --yes").into());
    }
    let what = if count == 1 { "1 execution".to_string() } else { format!("{count} executions") };
    let mut out = io::stdout().lock();
    write!(out, "Delete {what} and all events from the archive, for good? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(is_yes("y\n") && is_yes(" YES\n"));
        for no in ["", "\n", "n\n", "yeah\n", "no y\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
