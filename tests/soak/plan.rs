//! The sequence of a soak: which jobs are applied, what users ask of each, and what is disturbed, each at its moment.
//! A pure function of seed and duration. Which pod a disturbance meets depends on which run at that moment.

use std::{fmt, time::Duration};

use koco::api::{DesiredState, DisruptionPolicy, ExecutionMode, PausePolicy};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The mean time between two jobs.
const JOB_EVERY: Duration = Duration::from_millis(1400);
/// The mean time between two disturbances.
const DISTURBANCE_EVERY: Duration = Duration::from_secs(6);
/// The longest that a role stands still.
const LONGEST_FREEZE: u64 = 60;
/// How often an agent makes an entry, in milliseconds.
pub const TICK_MILLIS: u64 = 100;
/// More starts than this no job has.
pub const MAXIMUM_ATTEMPTS: i32 = 4;
/// A result that is too large for the status.
pub const LARGE_RESULT: u64 = 40_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub jobs: Vec<JobPlan>,
    pub disturbances: Vec<Disturbance>,
}

/// One job, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPlan {
    pub name: String,
    /// When it is applied, from the beginning.
    pub at: Duration,
    pub mode: ExecutionMode,
    /// How many entries an attempt makes.
    pub ticks: u64,
    /// How many attempts fail by the agent's own will.
    pub failures: i32,
    pub ignores_sigterm: bool,
    pub large_result: bool,
    pub pause_policy: PausePolicy,
    pub disruption_policy: DisruptionPolicy,
    /// In this order, each so long after the job was applied.
    pub requests: Vec<(Duration, Request)>,
}

/// What a user asks of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Want(DesiredState),
    Delete,
}

/// Something that goes wrong, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Disturbance {
    pub at: Duration,
    pub lasts: Duration,
    pub kind: Kind,
    /// Chooses among several possible targets.
    pub draw: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of a role, which is started again after `lasts`.
    KillRole,
    /// SIGSTOP.
    FreezeRole,
    /// A role's clock is hours ahead or behind, from one moment to the next.
    StepClock,
    /// Nothing passes between a role and the API server.
    CutApiServer,
    /// Nothing passes between a role and Temporal.
    CutTemporal,
    /// Nothing passes from pods to any gateway.
    CutGateways,
    /// Nothing passes from pods to one gateway.
    CutGateway,
    /// SIGKILL.
    KillApiServer,
    KillEtcd,
    KillControllerManager,
    KillKubelet,
    KillTemporal,
    FreezeTemporal,
    /// All agents' pods are evicted, and none is scheduled for as long.
    Drain,
    DeletePod,
    KillRunner,
    FreezeRunner,
    KillAgent,
}

pub const KINDS: [Kind; 18] = [
    Kind::KillRole,
    Kind::FreezeRole,
    Kind::StepClock,
    Kind::CutApiServer,
    Kind::CutTemporal,
    Kind::CutGateways,
    Kind::CutGateway,
    Kind::KillApiServer,
    Kind::KillEtcd,
    Kind::KillControllerManager,
    Kind::KillKubelet,
    Kind::KillTemporal,
    Kind::FreezeTemporal,
    Kind::Drain,
    Kind::DeletePod,
    Kind::KillRunner,
    Kind::FreezeRunner,
    Kind::KillAgent,
];

impl Kind {
    /// The longest that it lasts, in seconds. Each is met by a wait somewhere that it may outlast.
    fn longest(self) -> u64 {
        match self {
            Self::FreezeRole | Self::StepClock => LONGEST_FREEZE,
            Self::CutApiServer | Self::CutTemporal | Self::CutGateways | Self::CutGateway => 45,
            Self::FreezeTemporal | Self::FreezeRunner => 30,
            Self::KillRole | Self::KillTemporal => 20,
            Self::KillApiServer | Self::KillEtcd | Self::KillControllerManager | Self::KillKubelet | Self::Drain => 10,
            Self::DeletePod | Self::KillRunner | Self::KillAgent => 0,
        }
    }
}

impl Plan {
    /// The sequence of a seed. A longer one of the same seed does not begin as a shorter one does.
    pub fn new(seed: u64, duration: Duration) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut jobs = Vec::new();
        for (n, at) in moments(&mut rng, JOB_EVERY, duration).into_iter().enumerate() {
            jobs.push(job(&mut rng, format!("job{:05}", n + 1), at));
        }
        let mut disturbances = Vec::new();
        let mut deck: Vec<Kind> = Vec::new();
        for at in moments(&mut rng, DISTURBANCE_EVERY, duration) {
            // Each kind comes once before one comes again.
            if deck.is_empty() {
                deck = KINDS.to_vec();
            }
            let kind = deck.swap_remove(rng.random_range(0..deck.len()));
            let lasts = Duration::from_millis(rng.random_range(0..=kind.longest() * 1000)).min(duration - at);
            disturbances.push(Disturbance { at, lasts, kind, draw: rng.random_range(0..1 << 30) });
        }
        Self { jobs, disturbances }
    }
}

/// Moments until `end`, `every` apart in the mean.
fn moments(rng: &mut impl Rng, every: Duration, end: Duration) -> Vec<Duration> {
    let (mut all, mut at, every) = (Vec::new(), 0, every.as_millis() as u64);
    loop {
        at += rng.random_range(0..=2 * every);
        let moment = Duration::from_millis(at);
        if moment >= end {
            return all;
        }
        all.push(moment);
    }
}

fn job(rng: &mut impl Rng, name: String, at: Duration) -> JobPlan {
    let mode = if rng.random_bool(0.5) { ExecutionMode::Temporal } else { ExecutionMode::Direct };
    let want = Request::Want;
    let mut seconds = |from: u64, to: u64| Duration::from_millis(rng.random_range(from * 1000..to * 1000));
    let first = seconds(0, 8);
    let second = first + seconds(1, 15);
    let third = second + seconds(0, 10);
    let requests = match rng.random_range(0..20) {
        0..8 => vec![],
        8..12 => vec![(first, want(DesiredState::Paused)), (second, want(DesiredState::Running))],
        12 => vec![
            (first, want(DesiredState::Paused)),
            (second, want(DesiredState::Running)),
            (third, want(DesiredState::Paused)),
            (third + Duration::from_secs(3), want(DesiredState::Running)),
        ],
        13 | 14 => vec![(first, want(DesiredState::Paused)), (second, want(DesiredState::Cancelled))],
        15 | 16 => vec![(first, want(DesiredState::Cancelled))],
        17 => vec![(first, want(DesiredState::Paused)), (second, Request::Delete)],
        _ => vec![(first, Request::Delete)],
    };
    JobPlan {
        name,
        at,
        mode,
        ticks: rng.random_range(1..80),
        failures: [0, 0, 0, 0, 0, 1, 2, MAXIMUM_ATTEMPTS][rng.random_range(0..8)],
        ignores_sigterm: rng.random_bool(0.15),
        large_result: rng.random_bool(0.1),
        pause_policy: if rng.random_bool(0.25) { PausePolicy::Evict } else { PausePolicy::Freeze },
        disruption_policy: if rng.random_bool(0.5) { DisruptionPolicy::Ignore } else { DisruptionPolicy::Count },
        requests,
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} since {:.1} s", self.kind, self.at.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_has_the_same_sequence() {
        let minutes = Duration::from_secs(300);
        assert_eq!(Plan::new(1, minutes), Plan::new(1, minutes));
        assert_ne!(Plan::new(1, minutes), Plan::new(2, minutes));
    }

    #[test]
    fn five_minutes_have_all_that_there_is() {
        for seed in 0..20 {
            let plan = Plan::new(seed, Duration::from_secs(300));
            assert!(plan.jobs.len() > 150, "{}", plan.jobs.len());
            for kind in KINDS {
                assert!(plan.disturbances.iter().any(|d| d.kind == kind), "seed {seed}: no {kind:?}");
            }
            for mode in [ExecutionMode::Direct, ExecutionMode::Temporal] {
                let of = |holds: &dyn Fn(&JobPlan) -> bool| plan.jobs.iter().any(|j| j.mode == mode && holds(j));
                assert!(of(&|j| j.requests.is_empty() && j.failures == 0));
                assert!(of(&|j| j.failures == MAXIMUM_ATTEMPTS));
                assert!(of(&|j| j.ignores_sigterm) && of(&|j| j.large_result));
                assert!(of(&|j| j.requests.iter().any(|(_, r)| *r == Request::Delete)));
                assert!(of(&|j| j.requests.iter().any(|(_, r)| *r == Request::Want(DesiredState::Cancelled))));
            }
        }
    }

    /// Otherwise it would never end by itself.
    #[test]
    fn no_job_stays_paused() {
        for job in Plan::new(3, Duration::from_secs(3600)).jobs {
            assert_ne!(job.requests.last().map(|r| r.1), Some(Request::Want(DesiredState::Paused)), "{job:?}");
        }
    }
}
