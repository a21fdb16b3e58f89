//! `control_runner`: writes a command into the job's record. The gateway with the runner's connection passes it on.

use super::{Activities, Trouble, now};
use crate::{
    api::{AgentJobStatus, Command},
    platform::status,
    protocol::workflow::{ControlRunner, ControlledRunner},
};

/// Writes the command, unless the record is already further. Its own command again changes nothing.
fn command(status: &mut AgentJobStatus, input: &ControlRunner) {
    let control = status.control.get_or_insert_default();
    if control.command.as_ref().is_none_or(|c| c.seq < input.seq) {
        control.command = Some(Command { state: input.desired, seq: input.seq, time: now() });
    }
}

/// The number under which the command stands, or the next that is free.
fn taken(status: Option<&AgentJobStatus>, input: &ControlRunner) -> i64 {
    let found = status.and_then(|s| s.control.as_ref()).and_then(|c| c.command.as_ref());
    match found {
        Some(c) if c.seq == input.seq && c.state == input.desired => input.seq,
        Some(c) => c.seq.saturating_add(1),
        None => input.seq,
    }
}

/// A job that is gone has no runner to command: that is success.
pub async fn run(a: &Activities, input: ControlRunner) -> Result<ControlledRunner, Trouble> {
    let change = |_: &_, status: &mut AgentJobStatus| {
        command(status, &input);
        Ok::<_, Trouble>(())
    };
    match status::modify(&a.jobs(&input.job), &input.job, None, change).await {
        Ok(job) => Ok(ControlledRunner { seq: taken(job.status.as_ref(), &input) }),
        Err(Trouble::JobGone(_)) => Ok(ControlledRunner { seq: input.seq }),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DesiredState, JobRef};

    fn ask(status: &mut AgentJobStatus, desired: DesiredState, seq: i64) -> i64 {
        let input = ControlRunner { job: JobRef::default(), desired, seq };
        command(status, &input);
        taken(Some(status), &input)
    }

    #[test]
    fn the_highest_command_stays() {
        let mut s = AgentJobStatus::default();
        assert_eq!(ask(&mut s, DesiredState::Paused, 1), 1);
        assert_eq!(ask(&mut s, DesiredState::Paused, 1), 1, "the same again");
        assert_eq!(ask(&mut s, DesiredState::Running, 4), 4);
        // A workflow that was reset counts from less.
        assert_eq!(ask(&mut s, DesiredState::Paused, 2), 5);
        assert_eq!(ask(&mut s, DesiredState::Paused, 4), 5);
        assert_eq!(ask(&mut s, DesiredState::Paused, 5), 5);
        assert_eq!(s.control.unwrap().command.unwrap().state, DesiredState::Paused);
    }
}
