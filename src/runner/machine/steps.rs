//! The steps of the [`Machine`]: freezing, stopping, limits, the end. Used by `machine.rs` alone.

use super::*;

/// How many processes a problem names.
const NAMED: usize = 5;

impl Machine {
    pub(super) fn state(&self) -> RunnerState {
        match self.phase {
            Phase::Waiting { .. } | Phase::Starting => RunnerState::Waiting,
            Phase::Running | Phase::Noticed { .. } | Phase::Freezing(_) => RunnerState::Running,
            Phase::Frozen { .. } => RunnerState::Frozen,
            Phase::Stopping { .. } | Phase::Done => RunnerState::Stopping,
        }
    }

    /// Confirms the newest command, or that the agent has started.
    pub(super) fn confirm(&mut self, actions: &mut Vec<Action>) {
        self.acknowledged = self.generation.max(0);
        actions.push(Action::Confirm { state: self.state(), generation: self.acknowledged, problem: None });
    }

    pub(super) fn freeze(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.phase = Phase::Freezing(Freezing::begun(now, Duration::ZERO));
        actions.push(Action::Freeze { resume_vfork_children: false });
    }

    pub(super) fn evict(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.stop(now, Stopped::Evict, actions);
        self.confirm(actions);
    }

    pub(super) fn scanned(&mut self, now: Duration, outcome: Result<Vec<Process>, String>, actions: &mut Vec<Action>) {
        // An agent that has evaded a pause once may stand still for the moment of a scan.
        let clean = outcome.as_ref().is_ok_and(Vec::is_empty) && self.failed_pause < self.generation;
        match &mut self.phase {
            Phase::Frozen { .. } if clean => {}
            Phase::Frozen { after } => {
                self.active_since = Some(now);
                self.phase = Phase::Freezing(Freezing { next_scan: Some(now), ..Freezing::begun(now, *after) });
            }
            Phase::Freezing(freezing) if clean => {
                self.phase = Phase::Frozen { after: freezing.taken(now) };
                self.active = self.active(now);
                self.active_since = None;
                self.confirm(actions);
            }
            Phase::Freezing(freezing) => {
                freezing.next_scan = Some(now + freezing.step);
                let longest = if freezing.taken(now) < LONG { LONGEST_SCAN } else { LONGEST_SCAN_OF_LONG };
                freezing.step = if freezing.reported { SLOW_SCAN } else { (freezing.step * 2).min(longest) };
                if !freezing.reported && freezing.taken(now) >= FREEZE_LIMIT {
                    freezing.reported = true;
                    self.failed_pause = self.generation;
                    self.cannot_pause(now, outcome, actions);
                }
            }
            _ => {}
        }
    }

    fn cannot_pause(&mut self, now: Duration, outcome: Result<Vec<Process>, String>, actions: &mut Vec<Action>) {
        if self.policy.pause.may_evict() {
            return self.evict(now, actions);
        }
        let problem = match outcome {
            Ok(moving) if moving.is_empty() => "the agent has evaded an earlier pause, which is still wanted".into(),
            Ok(moving) => {
                let names: Vec<String> = moving.iter().take(NAMED).map(Process::to_string).collect();
                format!("{} process(es) did not stop: {}", moving.len(), names.join(", "))
            }
            Err(error) => format!("whether every process stopped is unknown: {error}"),
        };
        let generation = self.generation.max(0);
        actions.push(Action::Confirm { state: RunnerState::Running, generation, problem: Some(problem) });
    }

    /// Stops the agent, or the wait for its start.
    pub(super) fn end(&mut self, now: Duration, why: Stopped, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Done => {}
            Phase::Waiting { .. } | Phase::Starting => self.finish(now, false, Some(why), actions),
            Phase::Stopping { why: before, kill_at, .. } => {
                if why == Stopped::Gone {
                    *before = why;
                    kill_at.get_or_insert(now + self.policy.grace);
                }
            }
            _ => self.stop(now, why, actions),
        }
    }

    /// SIGTERM, and a deadline for SIGKILL unless the kubelet has its own. A frozen agent is resumed after the signal.
    pub(super) fn stop(&mut self, now: Duration, why: Stopped, actions: &mut Vec<Action>) {
        actions.push(Action::Term);
        if matches!(self.phase, Phase::Noticed { .. } | Phase::Freezing(_) | Phase::Frozen { .. }) {
            actions.push(Action::Thaw);
        }
        self.active_since.get_or_insert(now);
        let kill_at = (why != Stopped::Sigterm).then_some(now + self.policy.grace);
        self.phase = Phase::Stopping { why, kill_at, give_up_at: None };
    }

    pub(super) fn finish(&mut self, now: Duration, started: bool, stopped: Option<Stopped>, actions: &mut Vec<Action>) {
        self.active = self.active(now);
        self.active_since = None;
        self.phase = Phase::Done;
        actions.push(Action::Finish { started, stopped });
    }

    /// Whether there is an agent that is not being stopped.
    pub(super) fn has_agent(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Noticed { .. } | Phase::Freezing(_) | Phase::Frozen { .. })
    }

    /// When the agent exceeds a limit of its active time, and which; `None` while its clock is stopped.
    pub(super) fn limit_at(&self) -> Option<(Duration, Stopped)> {
        if !matches!(self.phase, Phase::Running | Phase::Noticed { .. } | Phase::Freezing(_)) {
            return None;
        }
        let since = self.active_since?;
        let at = |limit: Option<Duration>, why| Some((since + limit?.saturating_sub(self.active), why));
        // The first of equals: an end that is final counts.
        let limits = [at(self.policy.budget, Stopped::Budget), at(self.policy.limit, Stopped::Timeout)];
        limits.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if let Some((_, why)) = self.limit_at().filter(|(at, _)| *at <= now) {
            return self.stop(now, why, actions);
        }
        match &mut self.phase {
            Phase::Noticed { until } if *until <= now => self.freeze(now, actions),
            Phase::Freezing(freezing) if freezing.next_scan.is_some_and(|at| at <= now) => {
                freezing.next_scan = None;
                let resume_vfork_children = RESUME_VFORK.contains(&now.saturating_sub(freezing.since));
                actions.push(Action::Freeze { resume_vfork_children });
            }
            Phase::Stopping { kill_at, give_up_at, .. } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                give_up_at.get_or_insert(now + KILL_LIMIT);
                actions.push(Action::Kill);
            }
            Phase::Stopping { why, give_up_at, .. } if give_up_at.is_some_and(|at| at <= now) => {
                let why = *why;
                self.finish(now, true, Some(why), actions);
            }
            _ => {}
        }
    }
}

impl Freezing {
    fn begun(now: Duration, before: Duration) -> Self {
        Self { since: now, before, next_scan: None, step: FIRST_SCAN, reported: false }
    }

    fn taken(&self, now: Duration) -> Duration {
        self.before + now.saturating_sub(self.since)
    }
}
