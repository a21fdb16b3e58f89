//! `control_runner`: writes a command into the AgentRun. The gateway with the runner's connection passes it on.

use super::{Activities, ActivityFailure, now};
use crate::{
    api::{AgentRun, AgentRunSpec, DesiredState, RunCommand},
    protocol::workflow::{ControlRunner, ControlledRunner},
};

/// Writes a command, unless the run has a newer one. Repeating it changes nothing.
pub fn command(spec: &mut AgentRunSpec, state: DesiredState, generation: i64) {
    let known = spec.command.as_ref().map_or(0, |c| c.generation);
    if known < generation {
        spec.command = Some(RunCommand::after(spec.command.as_ref(), state, generation, now()));
    }
}

/// The generation of the written command, or the next free one.
fn taken(run: &AgentRun, input: &ControlRunner) -> i64 {
    match &run.spec.command {
        // Its runner has ended. The next run is created with the newest command.
        _ if run.is_closed() => input.generation,
        Some(c) if c.generation == input.generation && c.state == input.desired => input.generation,
        Some(c) => c.generation.saturating_add(1).max(input.generation),
        None => input.generation,
    }
}

/// A missing run is success: it has no runner, or gets the newest command with its grant.
pub async fn run(a: &Activities, input: &ControlRunner) -> Result<ControlledRunner, ActivityFailure> {
    let Some(run) = a.read_run(&input.job, input.run).await? else {
        return Ok(ControlledRunner { generation: input.generation });
    };
    let runs = a.runs_in(&input.job);
    let written = runs.modify_spec::<ActivityFailure, _>(run, |_, spec| {
        command(spec, input.desired, input.generation);
        Ok(())
    });
    Ok(ControlledRunner { generation: taken(&written.await?, input) })
}

#[cfg(test)]
mod tests {
    use super::{super::fake, *};

    fn ask(run: &mut AgentRun, desired: DesiredState, generation: i64) -> i64 {
        let input = ControlRunner { job: fake::job_ref(), desired, generation, run: 1 };
        if !run.is_closed() {
            command(&mut run.spec, desired, generation);
        }
        taken(run, &input)
    }

    #[test]
    fn the_highest_command_stays() {
        let mut run = fake::run(1);
        assert_eq!(ask(&mut run, DesiredState::Paused, 1), 1);
        assert_eq!(ask(&mut run, DesiredState::Paused, 1), 1, "the same again");
        assert_eq!(ask(&mut run, DesiredState::Running, 4), 4);
        // A workflow that was reset counts from a lower number.
        assert_eq!(ask(&mut run, DesiredState::Paused, 2), 5);
        assert_eq!(ask(&mut run, DesiredState::Paused, 4), 5);
        assert_eq!(ask(&mut run, DesiredState::Paused, 5), 5);
        assert_eq!(run.spec.command.as_ref().unwrap().state, DesiredState::Paused);
        run.spec.identity.tombstone = true;
        assert_eq!(ask(&mut run, DesiredState::Running, 2), 2, "its runner has ended");
    }
}
