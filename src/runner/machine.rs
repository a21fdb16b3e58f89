//! What the runner does when: a pure state machine, events in, actions out, time as an argument (since the runner's start).
//! Driven by [`super::supervisor`] alone, which carries out the actions and decides nothing.
//!
//! The rules: the highest seq counts; the agent starts once, and only with a permit while nothing else is wanted; Frozen is
//! said only after a look at every process; once told to stop, an agent is never told to go on.

use std::time::Duration;

use crate::api::{DesiredState, PausePolicy, RunnerState};

/// How long processes may take to stop before the runner says that they don't.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);
/// The first wait before it looks again, doubled up to the longest, and the wait once it has complained.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(16);
const PATIENT_LOOK: Duration = Duration::from_millis(500);
/// A process that still doesn't stop after this may be one that waits for a stopped child of `vfork`: see [`Action::Freeze`].
const NUDGE_AFTER: Duration = Duration::from_millis(6);

/// What the job says about its control.
#[derive(Clone, Debug)]
pub struct Policy {
    pub pause: PausePolicy,
    /// How long the agent may take after a notice, if it gets one.
    pub notice: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How long the agent may be active.
    pub limit: Option<Duration>,
    /// Why this runner can't freeze, if so.
    pub freeze_refusal: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Permit {
        attempt: i32,
    },
    Command {
        desired: DesiredState,
        seq: i64,
    },
    /// The job is over or another's.
    Gone,
    /// The kubelet ends the pod.
    Terminate,
    /// Answers to [`Action::Start`].
    Started,
    NotStarted,
    /// Answer to [`Action::Freeze`]: the processes that are not stopped, or why nobody can say.
    Scanned(Result<Vec<i32>, String>),
    /// The agent's main process stopped itself.
    AgentStopped,
    /// Another process ended.
    ChildEnded,
    /// The agent's main process ended.
    AgentEnded,
    /// [`Machine::deadline`] is over.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Start {
        attempt: i32,
    },
    /// Send the agent the signal of its pause notice.
    Notify,
    /// Stop every process and look; answered by [`Event::Scanned`]. With `nudge`, let stopped children of processes that
    /// can't be interrupted go on until the next look: a child of `vfork` that was stopped before its `exec` holds up its
    /// parent for ever.
    Freeze {
        nudge: bool,
    },
    /// SIGCONT to every process.
    Thaw,
    /// SIGTERM to the agent's main process.
    Term,
    /// SIGKILL to every process.
    Kill,
    Confirm {
        state: RunnerState,
        seq: i64,
        problem: Option<String>,
    },
    /// It is over.
    Finish {
        started: bool,
        stopped: Option<Stopped>,
    },
}

/// Why the runner told its agent to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    Cancel,
    Evict,
    Timeout,
    Sigterm,
    Gone,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Waiting { permit: Option<i32> },
    Starting,
    Running,
    Noticed { until: Duration },
    Freezing { since: Duration, look: Option<Duration>, step: Duration, complained: bool },
    Frozen,
    Stopping { why: Stopped, kill_at: Option<Duration> },
    Done,
}

/// One runner, from its first hello to its agent's end.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    phase: Phase,
    desired: DesiredState,
    /// The highest seq seen; -1: none.
    seq: i64,
    /// The highest seq carried out.
    carried: i64,
    /// Whether a notice was ever sent, so that the agent may stop itself because of it at any time.
    noticed: bool,
    active: Duration,
    active_since: Option<Duration>,
}

impl Machine {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::Waiting { permit: None },
            desired: DesiredState::Running,
            seq: -1,
            carried: 0,
            noticed: false,
            active: Duration::ZERO,
            active_since: None,
        }
    }

    /// What to say of the agent: its state, and the highest command that was carried out.
    pub fn standing(&self) -> (RunnerState, i64) {
        (self.state(), self.carried)
    }

    /// How long the agent was active: not before its start, not while frozen.
    pub fn active(&self, now: Duration) -> Duration {
        self.active + self.active_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// When to send [`Event::Tick`], if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        let step = match self.phase {
            Phase::Noticed { until } => Some(until),
            Phase::Freezing { look, .. } => look,
            Phase::Stopping { kill_at, .. } => kill_at,
            _ => None,
        };
        [step, self.limit_at()].into_iter().flatten().min()
    }

    /// Takes an event, returns what to do, in this order.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Permit { attempt } => {
                if let Phase::Waiting { permit } = &mut self.phase {
                    *permit = Some(attempt);
                    if self.desired == DesiredState::Running {
                        self.obey(now, &mut actions);
                    }
                }
            }
            Event::Command { desired, seq } => {
                // The same once more, after a reconnect, is answered once more.
                if seq > self.seq || (seq == self.seq && desired == self.desired) {
                    (self.desired, self.seq) = (desired, seq);
                    self.obey(now, &mut actions);
                }
            }
            Event::Started => {
                self.phase = Phase::Running;
                self.active_since = Some(now);
                self.confirm(&mut actions);
                if self.desired != DesiredState::Running {
                    self.obey(now, &mut actions);
                }
            }
            Event::NotStarted => self.finish(now, false, None, &mut actions),
            Event::Gone => self.end(now, Stopped::Gone, &mut actions),
            Event::Terminate => self.end(now, Stopped::Sigterm, &mut actions),
            Event::Scanned(outcome) => self.scanned(now, outcome, &mut actions),
            Event::AgentStopped => match self.phase {
                Phase::Noticed { .. } => self.freeze(now, &mut actions),
                // Its answer to a notice that is no longer true.
                Phase::Running | Phase::Stopping { .. } if self.noticed => actions.push(Action::Thaw),
                _ => {}
            },
            // The end of a process can leave others in an orphaned group, and the kernel continues those.
            Event::ChildEnded if self.phase == Phase::Frozen => actions.push(Action::Freeze { nudge: false }),
            Event::ChildEnded => {}
            Event::AgentEnded => {
                let stopped = match self.phase {
                    Phase::Stopping { why, .. } => Some(why),
                    _ => None,
                };
                self.finish(now, true, stopped, &mut actions);
            }
            Event::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    /// Brings the phase nearer to what is wanted, and confirms what is already so.
    fn obey(&mut self, now: Duration, actions: &mut Vec<Action>) {
        use DesiredState::{Cancelled, Paused, Running};
        match (&mut self.phase, self.desired) {
            (Phase::Done | Phase::Starting, _) => {}
            (Phase::Waiting { .. }, Cancelled) => self.finish(now, false, Some(Stopped::Cancel), actions),
            (Phase::Waiting { permit: Some(attempt) }, Running) => {
                actions.push(Action::Start { attempt: *attempt });
                self.phase = Phase::Starting;
            }
            (Phase::Stopping { why, kill_at }, desired) => {
                let evict = desired == Paused && self.policy.pause == PausePolicy::Evict;
                match (*why, desired) {
                    (Stopped::Gone, _) => {}
                    (_, Cancelled) => *why = Stopped::Cancel,
                    (Stopped::Sigterm, Paused) if evict => *why = Stopped::Evict,
                    _ => {}
                }
                // The kubelet ends its own wait; ours begins with the command.
                if *why != Stopped::Sigterm {
                    kill_at.get_or_insert(now + self.policy.grace);
                }
                self.confirm(actions);
            }
            (_, Cancelled) => {
                self.stop(now, Stopped::Cancel, actions);
                self.confirm(actions);
            }
            (Phase::Running, Paused) if self.policy.pause == PausePolicy::Evict => {
                self.stop(now, Stopped::Evict, actions);
                self.confirm(actions);
            }
            (Phase::Running, Paused) => match (&self.policy.freeze_refusal, self.policy.notice) {
                (Some(refusal), _) => {
                    let problem = Some(refusal.clone());
                    actions.push(Action::Confirm { state: RunnerState::Running, seq: self.seq, problem });
                }
                (None, Some(notice)) => {
                    self.phase = Phase::Noticed { until: now + notice };
                    self.noticed = true;
                    actions.push(Action::Notify);
                }
                (None, None) => self.freeze(now, actions),
            },
            (Phase::Freezing { complained, .. }, Paused) => *complained = false,
            (Phase::Noticed { .. }, Paused) => {}
            (Phase::Noticed { .. } | Phase::Freezing { .. } | Phase::Frozen, Running) => {
                actions.push(Action::Thaw);
                self.phase = Phase::Running;
                self.active_since.get_or_insert(now);
                self.confirm(actions);
            }
            (Phase::Waiting { .. } | Phase::Running, _) | (Phase::Frozen, Paused) => self.confirm(actions),
        }
    }
}

mod steps;

#[cfg(test)]
mod tests;
