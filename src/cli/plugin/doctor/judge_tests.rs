//! Tests of [`super`].

use k8s_openapi::jiff::Timestamp;

use super::*;

fn role(role: &str, wanted: i32, ready: i32) -> Role {
    let version = env!("CARGO_PKG_VERSION").into();
    Role { role: role.into(), name: format!("koco-{role}"), wanted, ready, version, temporal: None }
}

/// An installation that is well, with Temporal.
fn healthy() -> Observed {
    let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
    let renewed = Some("2026-01-01T00:00:00Z".parse().unwrap());
    let worker = Role { temporal: Some("t:7233".into()), ..role("worker", 1, 1) };
    Observed {
        operator: "koco-system".into(),
        namespace: "default".into(),
        version: (1, 33),
        ahead: 1,
        now,
        crds: vec![("agentjobs.kodosumi.io", Seen::Is(Some(SCHEMA_VERSION)))],
        served: Seen::Is(true),
        roles: Seen::Is(vec![role("controller", 1, 1), role("gateway", 2, 2), worker]),
        lease: Seen::Is(Some(Leader { holder: "pod-1".into(), renewed, seconds: 15 })),
        gateways: Seen::Is(2),
        authority: Seen::Is(true),
        policies: Seen::Is(vec![Policy { name: "p".into(), bound: true }]),
        server: Some(Ok("the service account koco-system/koco-archive-reader".into())),
        rights: rights::all().into_iter().map(|right| (right, Seen::Is(true))).collect(),
    }
}

#[test]
fn nothing_is_said_against_a_healthy_installation() {
    let lines = all(&healthy());
    assert!(lines.iter().all(|line| line.verdict == Verdict::Well && line.advice.is_none()), "{lines:?}");
    assert_eq!(lines.len(), 2 + 1 + 3 + 4 + 1 + 1 + rights::RIGHTS.len());
}

/// What one change makes of a healthy installation: the lines that are not well.
fn after(change: impl FnOnce(&mut Observed)) -> Vec<(Verdict, String, String)> {
    let mut seen = healthy();
    change(&mut seen);
    let lines = all(&seen).into_iter().filter(|line| line.verdict != Verdict::Well);
    let with_advice =
        lines.map(|line| (line.verdict, line.subject, line.finding + ": " + &line.advice.expect("advice")));
    with_advice.collect()
}

/// The same where that is one line.
fn one(change: impl FnOnce(&mut Observed)) -> (Verdict, String, String) {
    let mut lines = after(change);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[test]
fn each_thing_that_is_wrong_has_its_line_and_says_what_to_do() {
    use Verdict::{Warning, Wrong};
    type Change = fn(&mut Observed);
    let cases: [(Change, Verdict, &str, &str); 13] = [
        (|o| o.version = (1, 32), Wrong, "API server", "upgrade the cluster"),
        (|o| o.ahead = 60, Warning, "clock", "60 s behind the API server's"),
        (|o| o.ahead = -60, Warning, "clock", "60 s ahead of the API server's"),
        (|o| o.crds[0].1 = Seen::Is(None), Wrong, "CRD agentjobs.kodosumi.io", "missing: upgrade the chart"),
        (|o| o.crds[0].1 = Seen::Is(Some(0)), Wrong, "CRD agentjobs.kodosumi.io", "schema version 0"),
        (|o| o.crds[0].1 = Seen::Is(Some(SCHEMA_VERSION + 1)), Warning, "CRD agentjobs.kodosumi.io", "use the plugin"),
        (|o| o.roles = Seen::Is(vec![]), Wrong, "roles", "--operator-namespace"),
        (|o| o.lease = Seen::Is(None), Wrong, "leader", "no controller leads"),
        (|o| o.now = "2026-01-01T00:10:00Z".parse().unwrap(), Wrong, "leader", "has not said so for 600 s"),
        (|o| o.gateways = Seen::Is(0), Wrong, "gateway's Service", "no gateway takes connections"),
        (|o| o.authority = Seen::Is(false), Wrong, "gateway's authority", "not published"),
        (|o| o.policies = Seen::Is(vec![]), Wrong, "admission policies", "helm upgrade"),
        (|o| o.policies = Seen::Is(vec![unbound()]), Wrong, "policy p", "no binding"),
    ];
    for (change, verdict, subject, words) in cases {
        let found = one(change);
        assert_eq!((found.0, found.1.as_str()), (verdict, subject), "{}", found.2);
        assert!(found.2.contains(words), "{words}: {}", found.2);
    }
}

fn unbound() -> Policy {
    Policy { name: "p".into(), bound: false }
}

fn roles_of(seen: &mut Observed) -> &mut Vec<Role> {
    match &mut seen.roles {
        Seen::Is(roles) => roles,
        Seen::Hidden(_) => panic!(),
    }
}

#[test]
fn each_role_is_judged() {
    let found = one(|o| roles_of(o)[0].ready = 0);
    assert!(
        found.0 == Verdict::Wrong && found.1 == "controller" && found.2.contains("logs deploy/koco-controller"),
        "{found:?}"
    );
    let found = one(|o| roles_of(o)[1].ready = 1);
    assert_eq!((found.0, found.1.as_str()), (Verdict::Warning, "gateway"));
    let found = one(|o| roles_of(o)[1].wanted = 0);
    assert!(found.0 == Verdict::Wrong && found.2.contains("scale deploy/koco-gateway --replicas 1"), "{found:?}");
    let found = one(|o| drop(roles_of(o).remove(1)));
    assert_eq!((found.0, found.1.as_str()), (Verdict::Wrong, "gateway"));
    let found = one(|o| roles_of(o)[0].version = "9.9.9".into());
    assert_eq!((found.0, found.1.as_str()), (Verdict::Warning, "controller"));
}

#[test]
fn temporal_is_judged_by_its_workers() {
    let found = after(|o| roles_of(o)[2].ready = 0);
    assert_eq!(found.iter().map(|f| f.1.as_str()).collect::<Vec<_>>(), ["worker", "Temporal"]);
    let found = one(|o| {
        roles_of(o).remove(2);
        roles_of(o)[0].temporal = Some("t:7233".into());
    });
    assert!(found.1 == "Temporal" && found.2.contains("there is no worker"), "{found:?}");
    assert_eq!(after(|o| drop(roles_of(o).remove(2))), [], "Direct mode alone is fine");
}

#[test]
fn a_server_is_judged_by_what_it_answers() {
    use Verdict::{Unknown, Warning, Wrong};
    let words = || "the words".to_string();
    let refused = |status| Trouble::Refused { status, words: words() };
    let cases = [
        (Trouble::Away(words()), Wrong, "not reached: the words: kubectl -n koco-system describe pods"),
        (refused(503), Wrong, "reached, but the words: kubectl"),
        (refused(403), Warning, "it shows you nothing of default: the words"),
        (refused(401), Warning, "it shows you nothing of default: the words"),
        (Trouble::Forbidden(words()), Unknown, "you may not reach it: the words"),
        (Trouble::Missing(words()), Wrong, "not reached: the words"),
        (Trouble::Final(words()), Wrong, "not reached: the words"),
    ];
    for (trouble, verdict, said) in cases {
        let found = one(|o| o.server = Some(Err(trouble)));
        assert_eq!((found.0, found.1.as_str()), (verdict, "server"), "{}", found.2);
        assert!(found.2.contains(said), "{said}: {}", found.2);
    }
    assert_eq!(after(|o| o.server = None), [], "it need not be there");
    let hidden = after(|o| {
        o.roles = Seen::Hidden("you may not read it".into());
        o.server = Some(Err(Trouble::Missing(words())));
    });
    assert!(hidden.iter().all(|found| found.0 == Unknown), "{hidden:?}");
}

#[test]
fn what_may_not_be_read_is_unknown_and_not_wrong() {
    let hidden = || "you may not read it".to_string();
    let found = after(|o| {
        o.crds[0].1 = Seen::Hidden(hidden());
        (o.roles, o.lease) = (Seen::Hidden(hidden()), Seen::Hidden(hidden()));
        (o.gateways, o.authority, o.policies) =
            (Seen::Hidden(hidden()), Seen::Hidden(hidden()), Seen::Hidden(hidden()));
    });
    assert!(found.iter().all(|f| f.0 == Verdict::Unknown), "{found:?}");
    // The CRD is served.
    assert_eq!(found.len(), 6);
    let found = one(|o| (o.crds[0].1, o.served) = (Seen::Hidden(hidden()), Seen::Is(false)));
    assert_eq!(found.0, Verdict::Wrong, "{found:?}");
}

#[test]
fn what_the_caller_lacks_is_said_for_each_command() {
    let deny = |o: &mut Observed, verb: &str, resource: &str| {
        for (right, may) in &mut o.rights {
            if right.0 == verb && right.2 == resource {
                *may = Seen::Is(false);
            }
        }
    };
    let found = one(|o| deny(o, "patch", "agentjobs"));
    assert_eq!((found.0, found.1.as_str()), (Verdict::Warning, "you: pause, resume, cancel"));
    assert!(found.2.contains("patch agentjobs") && found.2.contains("--clusterrole edit"), "{found:?}");
    let found = after(|o| deny(o, "get", "pods/log"));
    assert_eq!(found.iter().map(|f| f.1.as_str()).collect::<Vec<_>>(), ["you: logs", "you: create", "you: run"]);
    assert!(found[0].2.contains("--clusterrole view"), "{found:?}");
}
