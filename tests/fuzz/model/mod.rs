//! The life cycle of Direct jobs as a model: the controller's real decisions, carried out in a [`world`] in which caches
//! are stale, writes conflict, controllers end between any two actions, and users, nodes and agents do what they like.

mod world;

use std::sync::LazyLock;

use clap::Parser;
use koco::{
    api::{AgentJob, AgentRun, DesiredState, Phase, RunCommand, TerminationSource, TerminationType},
    controller::agentjob::{
        Defaults,
        plan::{Action, Guard, ObservedState, OperatorContext, Plan, plan, still_wants},
    },
    lifecycle,
    pods::{PodView, ending},
    protocol::error_types,
    runs::{self, NewRun},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use serde_json::{Value, json};

use self::world::World;
use super::common::check;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    defaults: Defaults,
}

static DEFAULTS: LazyLock<Defaults> = LazyLock::new(|| Line::parse_from(["koco"]).defaults);

/// What may happen next.
#[derive(Clone, Debug)]
enum Event {
    /// A reconcile with caches of job, runs and pods that are so many changes old, and that ends after so many actions.
    Reconcile {
        behind: (usize, usize, usize),
        actions: usize,
    },
    Pass(i64),
    User(DesiredState),
    Runner(usize, Runner),
    /// Of the node: the container ends without a word.
    Exit(usize),
    DeletePod(usize),
    ForgetPod(usize),
    DeleteRun(usize),
}

/// What a runner does.
#[derive(Clone, Debug)]
enum Runner {
    Start,
    Obey,
    Report(TerminationType, &'static str),
    Silent(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let some = || 0_usize..4;
    let behind = prop_oneof![3 => Just((0, 0, 0)), 2 => (0_usize..6, 0_usize..6, 0_usize..6)];
    let actions = prop_oneof![4 => Just(usize::MAX), 1 => 0_usize..3];
    let desired = prop::sample::select(vec![DesiredState::Running, DesiredState::Paused, DesiredState::Cancelled]);
    let desired = (desired, 0..4)
        .prop_map(|(d, rare)| if rare > 0 && d == DesiredState::Cancelled { DesiredState::Running } else { d });
    let errors = vec![error_types::AGENT_FAILED, error_types::DISRUPTED, error_types::NOT_STARTED, "TheirOwn"];
    let failed = prop::sample::select(errors).prop_map(|e| (TerminationType::Failed, e));
    let ended = prop_oneof![
        6 => failed,
        1 => Just((TerminationType::Succeeded, "")),
        1 => Just((TerminationType::Evicted, "")),
        1 => Just((TerminationType::Cancelled, "")),
    ];
    let runner = prop_oneof![
        5 => Just(Runner::Start),
        3 => Just(Runner::Obey),
        3 => ended.prop_map(|(kind, error)| Runner::Report(kind, error)),
        2 => any::<bool>().prop_map(Runner::Silent),
    ];
    prop_oneof![
        14 => (behind, actions).prop_map(|(behind, actions)| Event::Reconcile { behind, actions }),
        10 => (some(), runner).prop_map(|(n, runner)| Event::Runner(n, runner)),
        4 => prop_oneof![1_i64..40, 100_i64..700].prop_map(Event::Pass),
        2 => desired.prop_map(Event::User),
        2 => some().prop_map(Event::Exit),
        1 => some().prop_map(Event::DeletePod),
        1 => some().prop_map(Event::ForgetPod),
        1 => some().prop_map(Event::DeleteRun),
    ]
}

fn spec() -> impl Strategy<Value = Value> {
    let disruption = prop::sample::select(vec!["Count", "FailJob", "Ignore"]);
    let pause = prop::sample::select(vec!["Freeze", "Evict", "FreezeOrEvict"]);
    (0..4, disruption, pause, 0..2).prop_map(|(most, disruption, pause, kept)| {
        json!({ "retryPolicy": { "maximumAttempts": most, "initialInterval": "1s" }, "disruptionPolicy": disruption,
            "pausePolicy": pause, "runHistoryLimit": kept, "failedPodsHistoryLimit": kept })
    })
}

/// What a controller observes with such caches, and what it reads live, as its `observe` does.
fn observe(world: &World, job: &AgentJob, runs_behind: usize, pods_behind: usize) -> ObservedState {
    let mut runs: Vec<AgentRun> = world.earlier(runs_behind).runs.values().cloned().collect();
    let mut observed = ObservedState::default();
    let status = job.status.clone().unwrap_or_default();
    let over = status.phase.is_some_and(|p| p.is_terminal());
    if let Some(active) = status.active_run.filter(|n| !over && runs.iter().all(|r| r.number() < *n))
        && (status.runner_pod_uid.is_some() || job.spec.desired_state == DesiredState::Paused)
    {
        match world.runs.get(&active) {
            Some(run) => runs.push(run.clone()),
            None => observed.active_is_missing = status.runner_pod_uid.is_some(),
        }
    }
    let cached = &world.earlier(pods_behind).pods;
    let of = |p: &&PodView| runs.iter().any(|r| p.run_uid.as_deref() == Some(r.uid()));
    observed.pods = cached.values().filter(of).cloned().collect();
    observed.runs = runs;
    if over {
        return observed;
    }
    let live = |name: &str| world.pods.get(name).and_then(|p| p.object.clone());
    let has_pod = |run: &AgentRun, pods: &[PodView]| pods.iter().any(|p| ending::is_pod_of(run, p));
    if let Some(run) = observed.runs.last().filter(|r| !r.is_closed() && !has_pod(r, &observed.pods)) {
        let registered = run.status.as_ref().and_then(|s| s.pod_uid.clone());
        let recorded = status.runner_pod_uid.clone().filter(|_| status.active_run == Some(run.number()));
        if let Some(uid) = registered.or(recorded) {
            match live(&run.spec.identity.pod_name).filter(|p| p.uid == uid) {
                Some(pod) => observed.pods.push(pod),
                None => observed.pod_is_gone = true,
            }
        }
    }
    find_previous_pod(world, &mut observed, job, live);
    observed
}

/// The pod of the run before the one that is to come, if it may still run.
fn find_previous_pod(
    world: &World,
    observed: &mut ObservedState,
    job: &AgentJob,
    live: impl Fn(&str) -> Option<PodView>,
) {
    let status = job.status.clone().unwrap_or_default();
    let Some(active) = status.active_run.filter(|n| *n > 1) else { return };
    let has_pod = |run: &AgentRun, pods: &[PodView]| pods.iter().any(|p| ending::is_pod_of(run, p));
    let newest = observed.runs.last().filter(|r| r.number() >= active);
    if newest.is_some_and(|run| run.is_closed() || run.is_ready() || has_pod(run, &observed.pods)) {
        return;
    }
    if !observed.runs.iter().any(|r| r.number() == active - 1 && r.is_closed())
        && let Some(run) = world.runs.get(&(active - 1))
    {
        observed.runs.retain(|r| r.number() != run.number());
        observed.runs.push(run.clone());
        observed.runs.sort_by_key(AgentRun::number);
    }
    let earlier = |p: &&PodView| observed.runs.iter().any(|r| r.number() < active && ending::is_pod_of(r, p));
    if let Some(pod) = observed.pods.iter().filter(earlier).find(|p| !p.agent_ended()) {
        observed.previous_pod = Some(pod.clone());
        return;
    }
    let previous = observed.runs.iter().find(|r| r.number() == active - 1 && !r.spec.identity.tombstone);
    if previous.is_some_and(|run| has_pod(run, &observed.pods)) {
        return;
    }
    let Some(name) = previous.map(|r| r.spec.identity.pod_name.clone()).or(status.runner_pod) else { return };
    let ours = |p: &PodView| previous.is_none_or(|run| p.run_uid.is_none() || ending::is_pod_of(run, p));
    observed.previous_pod = live(&name).filter(|p| ours(p) && !p.agent_ended());
}

fn decide(world: &World, job: &AgentJob, observed: &ObservedState) -> Plan {
    let operator = OperatorContext {
        defaults: &DEFAULTS,
        installation: "c",
        temporal_address: "",
        temporal_namespace: "",
        temporal_configured: false,
        archive_patience: std::time::Duration::ZERO,
        now: world.time(),
    };
    plan(job, observed, &operator)
}

/// One reconcile, as the controller's `reconcile` makes it; whether there was nothing to do.
fn reconcile(world: &mut World, behind: (usize, usize, usize), mut left: usize) -> Result<bool, TestCaseError> {
    let mut job = world.earlier(behind.0).job.clone();
    let mut plan = decide(world, &job, &observe(world, &job, behind.1, behind.2));
    if plan.actions.iter().any(Action::follows_from_spec) {
        for action in plan.actions.iter().filter(|a| a.follows_from_spec()) {
            if !carry_out(world, &job, action, &mut left)? {
                return Ok(false);
            }
        }
        plan = decide(world, &job, &observe(world, &job, 0, behind.2));
        plan.actions.retain(|a| !a.follows_from_spec());
    }
    let old = job.status.clone().unwrap_or_default();
    let quiet = plan.status == old && plan.actions.is_empty();
    if plan.status != old {
        let ended = world.job.status.as_ref().is_some_and(|s| s.phase.is_some_and(|p| p.is_terminal()));
        let phase = world.job.status.as_ref().and_then(|s| s.phase);
        if !world.put_job(&job, |job| job.status = Some(plan.status.clone())) {
            return Ok(false);
        }
        prop_assert!(!ended || phase == plan.status.phase, "{phase:?} was final, now {:?}", plan.status.phase);
        is_sound(world)?;
        job = world.job.clone();
    }
    for action in &plan.actions {
        if !carry_out(world, &job, action, &mut left)? {
            break;
        }
    }
    Ok(quiet)
}

/// Carries out an action, as the controller's `execute` does; false if it ends there.
fn carry_out(world: &mut World, job: &AgentJob, action: &Action, left: &mut usize) -> Result<bool, TestCaseError> {
    if *left == 0 {
        return Ok(false);
    }
    *left -= 1;
    let resolved = DEFAULTS.of(job);
    match action {
        Action::CreateRun(new) => {
            if !is_current(world, job, new.number) {
                return Ok(false);
            }
            let built = runs::build(job, &resolved, NewRun::clone(new)).expect("a run");
            let (run, made) = world.create_run(built);
            let open = world.runs.values().filter(|r| !r.is_closed()).count();
            prop_assert!(!made || open == 1 || world.tampered, "run {} while another is open", run.number());
            if !run.is_closed() && !run.is_ready() {
                return create_pod(world, job, &run);
            }
        }
        Action::CreatePod(run) => return create_pod(world, job, run),
        Action::CommandRun { run, state } => {
            let (known, now) = (run.command_generation(), world.time());
            let asked_by = job.metadata.generation;
            let _ = world.modify_run(run, |run| {
                let command = RunCommand::asked_by(run.spec.command.as_ref(), *state, asked_by, now.clone());
                if let Some(command) = command.filter(|_| run.command_generation() == known) {
                    run.spec.command = Some(command);
                }
            });
        }
        Action::CloseRun { run: known, termination, guard } => {
            let silent = known.status.as_ref().and_then(|s| s.unresponsive_since.clone());
            let _ = world.modify_run(known, |run| {
                let since = run.status.as_ref().and_then(|s| s.unresponsive_since.clone());
                let holds = match guard {
                    Guard::None => true,
                    Guard::Unchanged => run.spec == known.spec && run.acknowledged() == known.acknowledged(),
                    Guard::NotReady => !run.is_ready(),
                    Guard::Unresponsive => since.is_some() && since == silent,
                };
                let derived = termination.source == TerminationSource::Kubelet;
                if holds && !(derived && termination.started != run.may_have_started()) {
                    run.status.get_or_insert_default().termination = Some((**termination).clone());
                }
            });
        }
        Action::CreateTombstone { number, attempt } => {
            let built = runs::tombstone(job, &resolved, *number, *attempt).expect("a run");
            let (run, new) = world.create_run(built);
            let now = world.time();
            if !new {
                let _ = world.modify_run(&run, |run| {
                    run.status.get_or_insert_default().termination = Some(lifecycle::given_up(run, &now));
                });
            }
        }
        Action::DeleteRun { uid, .. } => world.delete_run(uid),
        Action::DeletePod { name, uid } => world.delete_pod(name, uid),
        other => prop_assert!(false, "{other:?} in Direct mode"),
    }
    Ok(true)
}

/// As the controller asks before it creates a run or a pod: a job that was not just written is read anew.
fn is_current(world: &World, job: &AgentJob, number: i32) -> bool {
    let now = if job.metadata.resource_version == world.job.metadata.resource_version { job } else { &world.job };
    still_wants(now, job, number)
}

fn create_pod(world: &mut World, job: &AgentJob, run: &AgentRun) -> Result<bool, TestCaseError> {
    let current = is_current(world, job, run.number());
    if current {
        world.create_pod(run);
    }
    Ok(current)
}

/// What holds at any time.
fn is_sound(world: &World) -> Result<(), TestCaseError> {
    let alive: Vec<&String> = world.pods.iter().filter(|(_, p)| p.agent).map(|(name, _)| name).collect();
    prop_assert!(alive.len() <= 1, "agents of {alive:?} live at the same time");
    let status = world.job.status.clone().unwrap_or_default();
    let (retry, most) = (status.retry.unwrap_or_default(), DEFAULTS.of(&world.job).retry_policy.maximum_attempts);
    let counted = retry.attempts - retry.ignored_disruptions;
    prop_assert!(most == 0 || counted <= most, "{counted} attempts of {most} are recorded");
    if !world.tampered {
        prop_assert!(
            most == 0 || world.attempts - retry.ignored_disruptions <= most + 1,
            "{} of {most}",
            world.attempts
        );
    }
    if status.phase == Some(Phase::Paused)
        && world.job.spec.desired_state == DesiredState::Paused
        && status.observed_generation == world.job.metadata.generation
    {
        // A pod that is to end lets its agent go on, for its SIGTERM.
        let runs = world.pods.iter().find(|(_, p)| p.agent && !p.frozen && p.killed_at.is_none());
        prop_assert!(runs.is_none(), "the agent of {:?} runs in a job that is said to be paused", runs.map(|(n, _)| n));
    }
    if status.phase.is_some_and(|p| p.is_terminal()) && !world.tampered {
        let newest = world.runs.values().next_back();
        prop_assert!(newest.is_none_or(AgentRun::is_closed), "the job has ended, and its run is open");
    }
    Ok(())
}

fn happen(world: &mut World, event: &Event) -> Result<(), TestCaseError> {
    let closed: Vec<_> = world.runs.values().filter(|r| r.is_closed()).cloned().collect();
    let nth = |n: usize| world.newest_pods().get(n).cloned().unwrap_or_default();
    match event {
        Event::Reconcile { behind, actions } => drop(reconcile(world, *behind, *actions)?),
        Event::Pass(seconds) => world.pass(*seconds),
        Event::User(desired) => {
            let live = world.job.clone();
            if live.spec.desired_state != DesiredState::Cancelled && live.spec.desired_state != *desired {
                world.put_job(&live, |job| {
                    job.spec.desired_state = *desired;
                    job.metadata.generation = job.metadata.generation.map(|g| g + 1);
                });
            }
        }
        Event::Runner(n, runner) => match (nth(*n), runner) {
            (pod, Runner::Start) => world.start(&pod),
            (pod, Runner::Obey) => world.obey(&pod),
            (pod, Runner::Silent(silent)) => world.silent(&pod, *silent),
            // An honest runner knows whether it has started its agent.
            (pod, Runner::Report(_, error_types::NOT_STARTED)) if world.pods.get(&pod).is_some_and(|p| p.started) => {}
            (pod, Runner::Report(kind, error)) => world.report(&pod, *kind, Some(*error).filter(|e| !e.is_empty())),
        },
        Event::Exit(n) => world.exit(&nth(*n)),
        Event::DeletePod(n) => {
            let name = nth(*n);
            if let Some(uid) = world.pods.get(&name).and_then(|p| p.object.as_ref()).map(|o| o.uid.clone()) {
                world.delete_pod(&name, &uid);
            }
        }
        Event::ForgetPod(n) => {
            // Of an open run: once it is closed, a forced deletion says that its processes are known to have ended.
            let name = nth(*n);
            if world.runs.values().any(|r| r.spec.identity.pod_name == name && !r.is_closed()) {
                world.forget_pod(&name);
            }
        }
        Event::DeleteRun(n) => {
            // A run that was never observed to exist would be created again.
            let status = world.job.status.clone().unwrap_or_default();
            let seen = status.active_run.unwrap_or(0) - i32::from(status.runner_pod_uid.is_none());
            // And the record of a run whose pod was deleted by force says how long its processes may linger.
            let lingers = world.pods.values().any(|p| p.object.is_none());
            let run = world.runs.values().rev().nth(*n).filter(|r| r.number() <= seen && !lingers);
            if let Some(uid) = run.map(|r| r.uid().to_string()) {
                world.tampered = true;
                world.delete_run(&uid);
            }
        }
    }
    for run in closed {
        let now = world.runs.get(&run.number()).filter(|now| now.uid() == run.uid());
        prop_assert!(now.is_none_or(|now| *now == run), "run {} was closed, and has changed", run.number());
    }
    is_sound(world)
}

/// From now on everybody does what is expected: the job must end.
fn settle(world: &mut World) -> Result<(), TestCaseError> {
    if world.job.spec.desired_state == DesiredState::Paused {
        happen(world, &Event::User(DesiredState::Running))?;
    }
    for _ in 0..40 {
        for _ in 0..20 {
            if reconcile(world, (0, 0, 0), usize::MAX)? {
                break;
            }
            is_sound(world)?;
        }
        if world.job.status.as_ref().is_some_and(|s| s.phase.is_some_and(|p| p.is_terminal())) {
            return Ok(());
        }
        for name in world.newest_pods() {
            world.silent(&name, false);
            world.obey(&name);
            world.start(&name);
            is_sound(world)?;
            if world.pods.get(&name).is_some_and(|p| p.agent) {
                world.report(&name, TerminationType::Succeeded, None);
                world.exit(&name);
            }
        }
        world.pass(61);
    }
    let status = serde_json::to_string(&world.job.status).unwrap_or_default();
    Err(TestCaseError::fail(format!("it doesn't end: {status}\n{:?}\n{:?}", world.runs, world.pods)))
}

#[test]
fn whatever_happens_one_agent_lives_at_most_and_every_job_ends_once() {
    check("life cycle", (spec(), prop::collection::vec(event(), 1..60)), |(spec, events)| {
        let mut world = World::new(&spec);
        for event in &events {
            happen(&mut world, event)?;
        }
        settle(&mut world)?;
        let phase = world.job.status.as_ref().and_then(|s| s.phase);
        for event in &events {
            happen(&mut world, event)?;
        }
        prop_assert_eq!(world.job.status.as_ref().and_then(|s| s.phase), phase, "it has ended");
        Ok(())
    });
}

/// Its pod is deleted by force, its runner is silent, and a controller with an old cache closes the run for that.
#[test]
fn a_pod_that_is_deleted_by_force_just_before_its_run_is_closed() {
    let policy = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "1s" } });
    let mut world = World::new(&policy);
    let reconcile = |pods_behind| Event::Reconcile { behind: (0, 0, pods_behind), actions: usize::MAX };
    let events = [
        reconcile(0),
        Event::Runner(0, Runner::Start),
        Event::Runner(0, Runner::Silent(true)),
        Event::User(DesiredState::Paused),
        Event::Pass(241),
        Event::ForgetPod(0),
        reconcile(2),
        reconcile(0),
        Event::Pass(1),
    ];
    for event in &events {
        happen(&mut world, event).unwrap_or_else(|e| panic!("{event:?}: {e}"));
    }
    assert!(world.runs.values().any(AgentRun::is_closed), "the old cache has closed the run");
    settle(&mut world).unwrap_or_else(|e| panic!("{e}"));
}

/// Its agent has started, and a controller whose copies don't have the run yet is asked for a pause.
#[test]
fn a_job_whose_run_is_not_in_the_cache_is_not_called_paused() {
    let mut world = World::new(&json!({}));
    let reconcile = |behind| Event::Reconcile { behind, actions: usize::MAX };
    let events = [
        reconcile((0, 0, 0)),
        Event::Runner(0, Runner::Start),
        Event::User(DesiredState::Paused),
        reconcile((0, 5, 0)),
    ];
    for event in &events {
        happen(&mut world, event).unwrap_or_else(|e| panic!("{event:?}: {e}"));
    }
    assert!(world.pods.values().any(|pod| pod.agent), "the agent lives");
}

/// Its pod is deleted by force while its agent runs, and a controller with an old cache creates the pod of the run again.
#[test]
fn the_runner_of_a_second_pod_of_a_run_starts_nothing() {
    let mut world = World::new(&json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "1s" } }));
    let reconcile = |behind| Event::Reconcile { behind, actions: usize::MAX };
    let events = [
        reconcile((0, 0, 0)),
        Event::Runner(0, Runner::Start),
        Event::ForgetPod(0),
        reconcile((0, 3, 4)),
        Event::Runner(0, Runner::Start),
    ];
    for event in &events {
        happen(&mut world, event).unwrap_or_else(|e| panic!("{event:?}: {e}"));
    }
    assert_eq!(world.pods.values().filter(|pod| pod.agent).count(), 1, "the first one's, which nothing has ended");
    settle(&mut world).unwrap_or_else(|e| panic!("{e}"));
}
