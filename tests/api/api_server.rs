//! Lost responses of the API server, delayed watches, and connections that die without a word.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::harness::{
    MODES, Node, Phase, Roles, Server, Service, Test, agent,
    api_proxy::{ApiProxy, Fault, creates_pod, watches},
    audit,
    job::With,
    wait::always,
};

async fn through(test: &Test, proxy: &ApiProxy) -> Roles {
    let mut roles = Roles::all_in_one(test, Server::Shared);
    roles.set("KUBECONFIG", &proxy.kubeconfig.display().to_string());
    roles.start().await;
    roles
}

/// So many jobs of each mode, to their end: each with one run, and one pod.
async fn all_succeed(test: &Test, of_each: usize) {
    let _node = Node::automatic(test);
    let mut jobs = Vec::new();
    for _ in 0..of_each {
        for mode in MODES {
            jobs.push(test.apply(agent("succeed").mode(mode)).await);
        }
    }
    for job in &jobs {
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!((status.attempt, job.run_number().await), (Some(1), 1));
    }
    let created = audit::created(&test.namespace);
    assert_eq!(created.len(), jobs.len(), "{created:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_creation_was_not_answered_is_found() {
    let test = Test::new().await;
    let count = AtomicUsize::new(0);
    let proxy = ApiProxy::start(&test, move |request| {
        if !creates_pod(request) {
            return Fault::None;
        }
        match count.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Fault::Unanswered,
            1 => Fault::Broken,
            _ => Fault::None,
        }
    })
    .await;
    let _roles = through(&test, &proxy).await;
    all_succeed(&test, 12).await;
    assert!(proxy.faults() >= 12, "{}", proxy.faults());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_late_makes_no_second_pod() {
    let test = Test::new().await;
    let late = |request: &axum::http::request::Parts| match watches(request, "pods") {
        true => Fault::Late(Duration::from_secs(15)),
        false => Fault::None,
    };
    let proxy = ApiProxy::start(&test, late).await;
    let _roles = through(&test, &proxy).await;
    all_succeed(&test, 8).await;
    assert!(proxy.faults() >= 1, "no watch of pods came this way");
}

/// As when the API server is overloaded: a job is read rather than written on the strength of an old copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_jobs_that_is_late_makes_no_conflicts() {
    let test = Test::new().await;
    const LATE: Duration = Duration::from_secs(15);
    let late = |request: &axum::http::request::Parts| match watches(request, "agentjobs") {
        true => Fault::Late(LATE),
        false => Fault::None,
    };
    let proxy = ApiProxy::start(&test, late).await;
    let _roles = through(&test, &proxy).await;
    all_succeed(&test, 4).await;
    assert!(proxy.faults() >= 1, "no watch of jobs came this way");
    // Old copies still come after the end.
    always(LATE + Duration::from_secs(2), "no conflicts", async || {
        let written = proxy.written();
        let of_jobs = written.iter().filter(|(asked, answer)| asked.resource == "agentjobs" && *answer == 409);
        let conflicts: Vec<_> = of_jobs.map(|(asked, _)| asked.words()).collect();
        if conflicts.is_empty() { Ok(()) } else { Err(conflicts) }
    })
    .await;
}

/// As when a load balancer forgets them, or the API server's node loses its power.
#[ignore = "more than a minute: make api-test SLOW=1"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_without_a_word_is_replaced() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    let service = Service::to_api_server(&test, &mut roles).await;
    roles.start().await;
    let _node = Node::automatic(&test);
    test.apply(agent("succeed")).await.phase(Phase::Succeeded).await;
    service.silence();
    let job = test.apply(agent("succeed")).await;
    // Less than the watches' own limit, by which they are replaced in any case.
    let limit = Duration::from_secs(200);
    job.until_within(limit, "its success", |s| s.phase == Some(Phase::Succeeded)).await;
}
