use serde_json::{Value, json};

use super::{super::fake, *};
use crate::pods::AgentContainer;

fn granted(binding: i32, by: &str, attempt: i32, change: impl FnOnce(&mut Value)) -> AgentRun {
    let time = "2026-01-01T00:00:00Z";
    let mut run = fake::run_json(1);
    run["spec"]["grant"] = json!({ "time": time, "binding": binding, "runID": by, "activityAttempt": attempt });
    run["status"] = json!({ "readyTime": time, "podUID": "pod-1" });
    change(&mut run);
    serde_json::from_value(run).unwrap()
}

fn pod(agent: AgentContainer) -> PodView {
    PodView { name: "p-1".into(), uid: "pod-1".into(), run_uid: Some("r-1".into()), agent, ..PodView::default() }
}

fn looked(pod: Option<PodView>) -> Option<Option<PodView>> {
    Some(pod)
}

fn decide(run: &AgentRun, attempt: u32, counts: bool, pod: Option<Option<PodView>>) -> Binding {
    bind(run, &Ask { task: &fake::task(attempt), counts, pod, node: None, now: now() })
}

fn number(binding: Binding) -> i32 {
    let Binding::Grant(grant) = binding else { panic!("{binding:?}") };
    grant.binding
}

fn closed_as(binding: Binding) -> String {
    let Binding::Close(termination) = binding else { panic!("{binding:?}") };
    termination.error.unwrap().kind
}

fn answers(binding: i32, unresponsive: bool) -> impl FnOnce(&mut Value) {
    move |run| {
        let time = "2026-01-01T00:00:00Z";
        run["status"]["acknowledged"] =
            json!({ "binding": binding, "generation": 0, "state": "Running", "time": time });
        if unresponsive {
            run["status"]["unresponsiveSince"] = json!(time);
        }
    }
}

#[test]
fn the_first_try_grants_and_another_of_the_same_number_is_it() {
    assert_eq!(number(decide(&fake::run(1), 1, false, None)), 0);
    assert_eq!(decide(&granted(3, "run", 2, |_| {}), 2, false, None), Binding::Ours);
}

#[test]
fn silence_under_a_binding_is_loss_and_a_time_out_alone_is_not() {
    let running = || looked(Some(pod(AgentContainer::Running)));
    assert_eq!(decide(&granted(0, "run", 1, |_| {}), 2, false, None), Binding::LookAtPod);
    // Every gateway may be away.
    for binding in 0..4 {
        assert_eq!(number(decide(&granted(binding, "run", 1, answers(0, false)), 2, false, running())), binding + 1);
    }
    // A gateway received no acknowledgement.
    let lost = decide(&granted(3, "run", 1, answers(2, true)), 2, false, running());
    assert_eq!(closed_as(lost), error_types::HEARTBEAT_TIMEOUT);
    // It acknowledged the newest binding, or has none yet: it is bound anew.
    assert_eq!(number(decide(&granted(3, "run", 1, answers(3, true)), 2, false, running())), 4);
    assert_eq!(number(decide(&granted(0, "run", 1, answers(-1, true)), 2, false, running())), 1);
    let again = decide(&granted(3, "run", 1, answers(0, false)), 2, false, running());
    let Binding::Grant(grant) = again else { panic!("{again:?}") };
    assert_eq!(grant.time, granted(3, "run", 1, |_| {}).spec.grant.unwrap().time, "it started when it started");
}

#[test]
fn the_node_of_a_lost_runner_decides_whether_it_was_disrupted() {
    let run = granted(3, "run", 1, answers(2, true));
    let on = |agent| Some(Some(PodView { node: Some("n".into()), ..pod(agent) }));
    let killed = || AgentContainer::Ended { exit_code: 137, reason: "Error".into(), message: None };
    let decided = |agent, node| {
        let task = fake::task(2);
        bind(&run, &Ask { task: &task, counts: false, pod: on(agent), node, now: now() })
    };
    for agent in [|| AgentContainer::Running, killed] {
        assert_eq!(decided(agent(), None), Binding::LookAtNode("n".into()));
        let lost = NodeState::Lost("node n is gone".into());
        assert_eq!(closed_as(decided(agent(), Some(lost))), error_types::DISRUPTED);
    }
    assert_eq!(closed_as(decided(AgentContainer::Running, Some(NodeState::Ready))), error_types::HEARTBEAT_TIMEOUT);
    assert_eq!(closed_as(decided(killed(), Some(NodeState::Ready))), error_types::RUNNER_LOST);
}

#[test]
fn silence_of_many_is_no_evidence() {
    let run = granted(3, "run", 1, |run| {
        answers(2, true)(run);
        run["status"]["unresponsiveAmongMany"] = json!(true);
    });
    let on = Some(Some(PodView { node: Some("n".into()), ..pod(AgentContainer::Running) }));
    let decided = |pod: &Option<Option<PodView>>, node| {
        let task = fake::task(2);
        bind(&run, &Ask { task: &task, counts: false, pod: pod.clone(), node, now: now() })
    };
    assert_eq!(decided(&on, None), Binding::LookAtNode("n".into()));
    assert_eq!(number(decided(&on, Some(NodeState::Ready))), 4, "it is bound anew");
    assert_eq!(number(decided(&looked(Some(pod(AgentContainer::Running))), None)), 4);
    let lost = NodeState::Lost("node n is gone".into());
    assert_eq!(closed_as(decided(&on, Some(lost))), error_types::DISRUPTED);
}

#[test]
fn a_runner_that_never_registered_is_lost_when_it_is_silent() {
    let run = granted(1, "run", 1, |r| r["status"] = json!({}));
    let lost = decide(&run, 2, false, looked(Some(pod(AgentContainer::Waiting))));
    assert_eq!(closed_as(lost), error_types::NOT_STARTED);
    let run = granted(0, "run", 1, |r| r["status"] = json!({}));
    assert_eq!(number(decide(&run, 2, false, looked(Some(pod(AgentContainer::Waiting))))), 1);
}

#[test]
fn a_silent_runners_pod_is_looked_at() {
    let run = granted(0, "run", 1, |_| {});
    let ended = AgentContainer::Ended { exit_code: 137, reason: "OOMKilled".into(), message: None };
    assert_eq!(closed_as(decide(&run, 2, false, looked(Some(pod(ended))))), error_types::OOM_KILLED);
    assert_eq!(closed_as(decide(&run, 2, false, looked(None))), error_types::DISRUPTED);
    let strange = PodView { uid: "somebody made another".into(), ..pod(AgentContainer::Running) };
    assert_eq!(closed_as(decide(&run, 2, false, looked(Some(strange)))), error_types::DISRUPTED);
}

#[test]
fn whoever_comes_late_asks_temporal_first() {
    let running = || looked(Some(pod(AgentContainer::Running)));
    // A delayed try, and one of an execution that has continued as new.
    for late in [granted(1, "run", 3, |_| {}), granted(1, "the next", 1, |_| {})] {
        assert_eq!(decide(&late, 2, false, running()), Binding::AskTemporal);
        assert_eq!(number(decide(&late, 2, true, running())), 2);
    }
    // The first try of the next execution closes nothing.
    assert_eq!(number(decide(&granted(1, "before", 2, answers(0, true)), 1, true, running())), 2);
}
