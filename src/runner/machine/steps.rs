//! The single steps of the [`Machine`]: freezing, stopping, limits, the end. Used by `machine.rs` alone.

use super::*;

impl Machine {
    pub(super) fn state(&self) -> RunnerState {
        match self.phase {
            Phase::Waiting { .. } | Phase::Starting => RunnerState::Waiting,
            Phase::Running | Phase::Noticed { .. } | Phase::Freezing { .. } => RunnerState::Running,
            Phase::Frozen => RunnerState::Frozen,
            Phase::Stopping { .. } | Phase::Done => RunnerState::Stopping,
        }
    }

    /// Says that the newest command is carried out, or that the agent has started.
    pub(super) fn confirm(&mut self, actions: &mut Vec<Action>) {
        self.carried = self.seq.max(0);
        actions.push(Action::Confirm { state: self.state(), seq: self.carried, problem: None });
    }

    pub(super) fn freeze(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.phase = Phase::Freezing { since: now, look: None, step: FIRST_LOOK, complained: false };
        actions.push(Action::Freeze { nudge: false });
    }

    pub(super) fn scanned(&mut self, now: Duration, outcome: Result<Vec<i32>, String>, actions: &mut Vec<Action>) {
        let clean = outcome.as_ref().is_ok_and(Vec::is_empty);
        match &mut self.phase {
            Phase::Frozen if clean => {}
            Phase::Frozen => {
                self.active_since = Some(now);
                self.phase = Phase::Freezing { since: now, look: Some(now), step: FIRST_LOOK, complained: false };
            }
            Phase::Freezing { .. } if clean => {
                self.phase = Phase::Frozen;
                self.active = self.active(now);
                self.active_since = None;
                self.confirm(actions);
            }
            Phase::Freezing { since, look, step, complained } => {
                *look = Some(now + *step);
                *step = if *complained { PATIENT_LOOK } else { (*step * 2).min(LONGEST_LOOK) };
                if !*complained && now.saturating_sub(*since) >= FREEZE_PATIENCE {
                    *complained = true;
                    let problem = match outcome {
                        Ok(pids) => {
                            format!("{} process(es) did not stop, such as {:?}", pids.len(), &pids[..pids.len().min(5)])
                        }
                        Err(error) => format!("it can't be seen whether every process stopped: {error}"),
                    };
                    actions.push(Action::Confirm {
                        state: RunnerState::Running,
                        seq: self.seq.max(0),
                        problem: Some(problem),
                    });
                }
            }
            _ => {}
        }
    }

    /// Stops the agent, or what is left of the wait for its start.
    pub(super) fn end(&mut self, now: Duration, why: Stopped, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Done => {}
            Phase::Waiting { .. } | Phase::Starting => self.finish(now, false, Some(why), actions),
            Phase::Stopping { why: before, kill_at } => {
                if why == Stopped::Gone {
                    *before = why;
                    kill_at.get_or_insert(now + self.policy.grace);
                }
            }
            _ => self.stop(now, why, actions),
        }
    }

    /// SIGTERM, and the end of the grace period if it is ours to keep. A frozen agent is continued, but gets its signal first.
    pub(super) fn stop(&mut self, now: Duration, why: Stopped, actions: &mut Vec<Action>) {
        actions.push(Action::Term);
        if matches!(self.phase, Phase::Noticed { .. } | Phase::Freezing { .. } | Phase::Frozen) {
            actions.push(Action::Thaw);
        }
        self.active_since.get_or_insert(now);
        let kill_at = (why != Stopped::Sigterm).then_some(now + self.policy.grace);
        self.phase = Phase::Stopping { why, kill_at };
    }

    pub(super) fn finish(&mut self, now: Duration, started: bool, stopped: Option<Stopped>, actions: &mut Vec<Action>) {
        self.active = self.active(now);
        self.active_since = None;
        self.phase = Phase::Done;
        actions.push(Action::Finish { started, stopped });
    }

    /// When the agent has been active for too long, as far as its clock runs now.
    pub(super) fn limit_at(&self) -> Option<Duration> {
        if !matches!(self.phase, Phase::Running | Phase::Noticed { .. } | Phase::Freezing { .. }) {
            return None;
        }
        Some(self.active_since? + self.policy.limit?.saturating_sub(self.active))
    }

    pub(super) fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.limit_at().is_some_and(|limit| limit <= now) {
            return self.stop(now, Stopped::Timeout, actions);
        }
        match &mut self.phase {
            Phase::Noticed { until } if *until <= now => self.freeze(now, actions),
            Phase::Freezing { since, look, .. } if look.is_some_and(|look| look <= now) => {
                *look = None;
                actions.push(Action::Freeze { nudge: now.saturating_sub(*since) >= NUDGE_AFTER });
            }
            Phase::Stopping { kill_at, .. } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                actions.push(Action::Kill);
            }
            _ => {}
        }
    }
}
