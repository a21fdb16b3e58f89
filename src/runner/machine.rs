//! The runner's decisions: a pure state machine, events in, actions out, time as an argument (since the runner's
//! start). Driven by [`super::supervisor`] alone, which carries out the actions and decides nothing.
//!
//! The rules: the command of the highest generation counts; the agent starts once, and only with a grant while Running
//! is desired; Frozen is confirmed only after a scan of every process, and never for a command that was reported as failed; an
//! agent that is being stopped is never resumed.

use std::time::Duration;

use super::procfs::Process;
use crate::api::{DesiredState, PausePolicy, RunnerState};

/// How long processes may take to stop in all, in one pause, before the runner reports a problem, which is final for the
/// pause: on a busy node they wait for a processor, too. The report is promised within ten seconds.
const FREEZE_LIMIT: Duration = Duration::from_secs(8);
/// The wait before the second scan, doubled up to the longest, which is longer for those that take long, and the wait once
/// a problem was reported.
const FIRST_SCAN: Duration = Duration::from_millis(1);
const LONGEST_SCAN: Duration = Duration::from_millis(16);
const LONG: Duration = Duration::from_millis(100);
const LONGEST_SCAN_OF_LONG: Duration = Duration::from_millis(256);
const SLOW_SCAN: Duration = Duration::from_millis(500);
/// When a process that doesn't stop may be waiting for a stopped child of `vfork`: see [`Action::Freeze`]. On a busy node
/// the child waits for a processor before it calls `exec`. Not until the limit: one that never does stands still then.
const RESUME_VFORK: std::ops::Range<Duration> = Duration::from_millis(6)..Duration::from_secs(6);

/// How long the agent may outlive SIGKILL, as another user's process does, before the runner ends without it: the kernel
/// ends all with a container's first process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// No wait is longer than ten years: templates may ask for longer grace periods than times can be added to.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The job's settings for control.
#[derive(Clone, Debug)]
pub struct Policy {
    pub pause: PausePolicy,
    /// How long the agent may take after a pause notice, if it gets one.
    pub notice: Option<Duration>,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The limit of the agent's active time.
    pub limit: Option<Duration>,
    /// What the job's budget has left of active time.
    pub budget: Option<Duration>,
    /// Whether nothing is left of the job's budget, so that no agent is started.
    pub used_up: bool,
    /// Why this runner can't freeze, if so.
    pub freeze_refusal: Option<String>,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Grant {
        attempt: i32,
    },
    Command {
        desired: DesiredState,
        generation: i64,
    },
    /// The job has ended, or the run is another pod's.
    Gone,
    /// The kubelet terminates the pod.
    Terminate,
    /// By the agent's own report the job's budget is exceeded.
    OverBudget,
    /// The results of [`Action::Start`].
    Started,
    NotStarted,
    /// The result of [`Action::Freeze`]: the processes that are not stopped, or why the scan failed.
    Scanned(Result<Vec<Process>, String>),
    /// The agent's main process stopped itself.
    AgentStopped,
    /// Another process ended.
    ChildEnded,
    /// The agent's main process ended.
    AgentEnded,
    /// [`Machine::deadline`] has passed.
    Tick,
}

/// An action to carry out.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Start {
        attempt: i32,
    },
    /// Send the pause notice's signal to the agent.
    Notify,
    /// Stop every process and scan; [`Event::Scanned`] follows. With `resume_vfork_children`, let stopped children of
    /// processes in uninterruptible sleep continue until the next scan: a child of `vfork` that is stopped before its
    /// `exec` blocks its parent for ever.
    Freeze {
        resume_vfork_children: bool,
    },
    /// SIGCONT to every process.
    Thaw,
    /// SIGTERM to the agent's main process.
    Term,
    /// SIGKILL to every process.
    Kill,
    Confirm {
        state: RunnerState,
        generation: i64,
        problem: Option<String>,
    },
    /// The agent has ended, or will not be started.
    Finish {
        started: bool,
        stopped: Option<Stopped>,
    },
}

/// Why the runner stopped its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    Cancel,
    Evict,
    Timeout,
    Budget,
    Sigterm,
    Gone,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Waiting {
        grant: Option<i32>,
    },
    Starting,
    Running,
    Noticed {
        until: Duration,
    },
    Freezing(Freezing),
    /// After so long in [`Phase::Freezing`], since the pause began.
    Frozen {
        after: Duration,
    },
    Stopping {
        why: Stopped,
        kill_at: Option<Duration>,
        give_up_at: Option<Duration>,
    },
    Done,
}

#[derive(Clone, Debug, PartialEq)]
struct Freezing {
    since: Duration,
    /// What it took before, in the same pause: processes may go on again.
    before: Duration,
    next_scan: Option<Duration>,
    step: Duration,
    reported: bool,
}

/// One runner, from its registration to its agent's end.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    phase: Phase,
    desired: DesiredState,
    /// The highest generation received; -1: none.
    generation: i64,
    /// The highest generation carried out.
    acknowledged: i64,
    /// Whether a notice was ever sent: the agent may stop itself because of it at any later time.
    noticed: bool,
    /// The generation of the last pause that could not be carried out; -1: none.
    failed_pause: i64,
    active: Duration,
    active_since: Option<Duration>,
}

impl Machine {
    pub fn new(policy: Policy) -> Self {
        let short = |time: Duration| time.min(LONGEST);
        let (grace, notice) = (short(policy.grace), policy.notice.map(short));
        let (limit, budget) = (policy.limit.map(short), policy.budget.map(short));
        Self {
            policy: Policy { grace, notice, limit, budget, ..policy },
            phase: Phase::Waiting { grant: None },
            desired: DesiredState::Running,
            generation: -1,
            acknowledged: 0,
            noticed: false,
            failed_pause: -1,
            active: Duration::ZERO,
            active_since: None,
        }
    }

    /// The agent's state, and the highest generation that was carried out.
    pub fn snapshot(&self) -> (RunnerState, i64) {
        (self.state(), self.acknowledged)
    }

    /// How long the agent was active: since its start, without frozen time.
    pub fn active(&self, now: Duration) -> Duration {
        self.active + self.active_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// When to send [`Event::Tick`], if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        let step = match self.phase {
            Phase::Noticed { until } => Some(until),
            Phase::Freezing(Freezing { next_scan, .. }) => next_scan,
            Phase::Stopping { kill_at, give_up_at, .. } => [kill_at, give_up_at].into_iter().flatten().min(),
            _ => None,
        };
        [step, self.limit_at().map(|(at, _)| at)].into_iter().flatten().min()
    }

    /// Handles an event and returns the actions to carry out, in this message.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Grant { attempt } => {
                if let Phase::Waiting { grant } = &mut self.phase {
                    *grant = Some(attempt);
                    if self.desired == DesiredState::Running {
                        self.follow_desired(now, &mut actions);
                    }
                }
            }
            Event::Command { desired, generation } => {
                // A repeated command, after a reconnect, is confirmed again.
                if generation > self.generation || (generation == self.generation && desired == self.desired) {
                    (self.desired, self.generation) = (desired, generation);
                    self.follow_desired(now, &mut actions);
                }
            }
            Event::Started => {
                self.phase = Phase::Running;
                self.active_since = Some(now);
                self.confirm(&mut actions);
                if self.desired != DesiredState::Running {
                    self.follow_desired(now, &mut actions);
                }
            }
            Event::NotStarted => self.finish(now, false, None, &mut actions),
            Event::Gone => self.end(now, Stopped::Gone, &mut actions),
            Event::Terminate => self.end(now, Stopped::Sigterm, &mut actions),
            Event::OverBudget if self.has_agent() => self.stop(now, Stopped::Budget, &mut actions),
            Event::OverBudget => {}
            Event::Scanned(outcome) => self.scanned(now, outcome, &mut actions),
            Event::AgentStopped => match self.phase {
                Phase::Noticed { .. } => self.freeze(now, &mut actions),
                // A late reaction to a notice that was withdrawn.
                Phase::Running | Phase::Stopping { .. } if self.noticed => actions.push(Action::Thaw),
                _ => {}
            },
            // The end of a process can leave others in an orphaned group, and the kernel continues those.
            Event::ChildEnded if matches!(self.phase, Phase::Frozen { .. }) => {
                actions.push(Action::Freeze { resume_vfork_children: false })
            }
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

    /// Moves the phase towards the desired state, and confirms it once reached.
    fn follow_desired(&mut self, now: Duration, actions: &mut Vec<Action>) {
        use DesiredState::{Cancelled, Paused, Running};
        match (&mut self.phase, self.desired) {
            (Phase::Done | Phase::Starting, _) => {}
            (Phase::Waiting { .. }, Cancelled) => self.finish(now, false, Some(Stopped::Cancel), actions),
            (Phase::Waiting { grant: Some(_) }, Running) if self.policy.used_up => {
                self.finish(now, false, Some(Stopped::Budget), actions)
            }
            (Phase::Waiting { grant: Some(attempt) }, Running) => {
                actions.push(Action::Start { attempt: *attempt });
                self.phase = Phase::Starting;
            }
            (Phase::Stopping { why, kill_at, .. }, desired) => {
                let evict = desired == Paused && self.policy.pause.may_evict();
                match (*why, desired) {
                    (Stopped::Gone, _) => {}
                    (_, Cancelled) => *why = Stopped::Cancel,
                    (Stopped::Sigterm, Paused) if evict => *why = Stopped::Evict,
                    _ => {}
                }
                // The kubelet keeps its own grace period; this one begins with the command.
                if *why != Stopped::Sigterm {
                    kill_at.get_or_insert(now + self.policy.grace);
                }
                self.confirm(actions);
            }
            (_, Cancelled) => {
                self.stop(now, Stopped::Cancel, actions);
                self.confirm(actions);
            }
            (Phase::Running, Paused) if self.policy.pause == PausePolicy::Evict => self.evict(now, actions),
            (Phase::Running, Paused) => match (&self.policy.freeze_refusal, self.policy.notice) {
                (Some(_), _) if self.policy.pause.may_evict() => self.evict(now, actions),
                (Some(refusal), _) => {
                    let problem = Some(refusal.clone());
                    actions.push(Action::Confirm { state: RunnerState::Running, generation: self.generation, problem });
                }
                (None, Some(notice)) => {
                    self.phase = Phase::Noticed { until: now + notice };
                    self.noticed = true;
                    actions.push(Action::Notify);
                }
                (None, None) => self.freeze(now, actions),
            },
            (Phase::Freezing(freezing), Paused) => {
                *freezing = Freezing { since: now, reported: false, ..freezing.clone() }
            }
            (Phase::Noticed { .. }, Paused) => {}
            (Phase::Noticed { .. } | Phase::Freezing(_) | Phase::Frozen { .. }, Running) => {
                actions.push(Action::Thaw);
                self.phase = Phase::Running;
                self.active_since.get_or_insert(now);
                self.confirm(actions);
            }
            (Phase::Waiting { .. } | Phase::Running, _) | (Phase::Frozen { .. }, Paused) => self.confirm(actions),
        }
    }
}

mod steps;

#[cfg(test)]
mod tests;
