//! `wait`: waits for a job's phase or end, with an exit code for scripts.

use std::{io::Write, process::ExitCode, str::FromStr, time::Duration};

use anyhow::anyhow;
use clap::Args;
use futures::TryStreamExt;

use super::{
    connect::{Session, job_name},
    output::reference,
    render::waited_for,
    select::parse_phase,
    settle,
    text::{Progress, say},
    watch,
};
use crate::api::{AgentJob, Phase, Seconds};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    the job has succeeded, or reached the phase that was waited for
  1    it has ended otherwise: failed, cancelled, deleted; or it can't be watched
  2    wrong usage
  124  the time is over";

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    #[arg(value_parser = job_name)]
    name: String,
    /// What to wait for: `finished`, `paused`, or a phase such as `Running` or `phase=Failed`
    #[arg(long = "for", value_name = "WHAT", default_value = "finished")]
    what: What,
    /// How long, such as 90s or 1h30m. Default: without limit
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse)]
    timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Finished,
    Phase(Phase),
}

impl FromStr for What {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("phase=").unwrap_or(text) {
            word if word.eq_ignore_ascii_case("finished") => Ok(Self::Finished),
            word => parse_phase(word).map(Self::Phase).map_err(|e| format!("neither `finished` nor a phase: {e}")),
        }
    }
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let watched = until(session, arguments);
    let ended = match arguments.timeout {
        Some(limit) => tokio::time::timeout(limit, watched).await,
        None => Ok(watched.await),
    };
    let name = &arguments.name;
    let Ok(ended) = ended else {
        say(format_args!("error: timed out waiting for {}", reference(name)));
        return Ok(settle::TIME_IS_OVER.into());
    };
    let (phase, reached) = ended?;
    writeln!(std::io::stdout(), "{} {phase:?}", reference(name))?;
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn until(session: &Session, arguments: &Arguments) -> anyhow::Result<(Phase, bool)> {
    let mut changes = watch::job(session, &arguments.name).await?;
    let mut progress = Progress::new();
    while let Some(job) = changes.try_next().await? {
        let phase = watch::phase(&job);
        if let Some(reached) = judge(&job, arguments.what) {
            return Ok((phase, reached));
        }
        progress.show(waited_for(&job));
    }
    Err(anyhow!("the watch has ended"))
}

/// Whether the condition is met; `None`: not yet.
fn judge(job: &AgentJob, what: What) -> Option<bool> {
    let phase = watch::phase(job);
    match what {
        What::Phase(wanted) if job.status.as_ref().is_some_and(|s| s.phase == Some(wanted)) => Some(true),
        What::Finished if phase.is_terminal() => Some(phase == Phase::Succeeded),
        _ => phase.is_terminal().then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AgentJobStatus;

    #[test]
    fn words_and_phases() {
        assert_eq!("finished".parse(), Ok(What::Finished));
        assert_eq!("paused".parse(), Ok(What::Phase(Phase::Paused)));
        assert_eq!("phase=Running".parse(), Ok(What::Phase(Phase::Running)));
        assert!("done".parse::<What>().is_err() && "".parse::<What>().is_err());
    }

    #[test]
    fn an_end_that_was_not_waited_for_ends_the_wait() {
        let at = |phase| AgentJob {
            status: Some(AgentJobStatus { phase: Some(phase), ..AgentJobStatus::default() }),
            ..AgentJob::default()
        };
        assert_eq!(judge(&at(Phase::Running), What::Finished), None);
        assert_eq!(judge(&at(Phase::Succeeded), What::Finished), Some(true));
        assert_eq!(judge(&at(Phase::Cancelled), What::Finished), Some(false));
        assert_eq!(judge(&at(Phase::Paused), What::Phase(Phase::Paused)), Some(true));
        assert_eq!(judge(&at(Phase::Succeeded), What::Phase(Phase::Paused)), Some(false));
        assert_eq!(judge(&at(Phase::Failed), What::Phase(Phase::Failed)), Some(true));
        assert_eq!(judge(&AgentJob::default(), What::Phase(Phase::Pending)), None, "no status yet");
    }
}
