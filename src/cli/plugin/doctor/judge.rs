//! What the observations mean, and what to do. Pure.

use super::{
    super::{rights, server::Trouble},
    look::{Leader, Observed, Policy, Role, Seen},
};
use crate::api::SCHEMA_VERSION;

/// The oldest Kubernetes that koco runs on.
const KUBERNETES: (u32, u32) = (1, 33);
/// Clocks that differ by less, in seconds, are no matter.
const SKEW: i64 = 5;
/// The roles that every installation has.
const REQUIRED: [&str; 2] = ["controller", "gateway"];

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Well,
    Warning,
    Wrong,
    Unknown,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Warning => "warn",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub verdict: Verdict,
    pub subject: String,
    pub finding: String,
    /// What to do, unless it is well.
    pub advice: Option<String>,
}

fn line(verdict: Verdict, subject: &str, finding: impl Into<String>, advice: impl Into<String>) -> Line {
    let advice = Some(advice.into()).filter(|advice| !advice.is_empty());
    Line { verdict, subject: subject.into(), finding: finding.into(), advice }
}

fn well(subject: &str, finding: impl Into<String>) -> Line {
    line(Verdict::Well, subject, finding, "")
}

fn hidden(subject: &str, why: &str) -> Line {
    line(Verdict::Unknown, subject, why, "ask who may read it to run `kubectl koco doctor`")
}

/// All lines, in the order in which one thing needs the other.
pub(super) fn all(seen: &Observed) -> Vec<Line> {
    let mut lines = vec![api_server(seen), clock(seen)];
    lines.extend(crds(seen));
    lines.extend(roles(seen));
    lines.push(leader(seen));
    lines.push(gateways(seen));
    lines.push(authority(seen));
    lines.extend(policies(seen));
    lines.push(temporal(seen));
    lines.push(server(seen));
    lines.extend(caller(seen));
    lines
}

fn api_server(seen: &Observed) -> Line {
    let (major, minor) = seen.version;
    let version = format!("version {major}.{minor}");
    match seen.version >= KUBERNETES {
        true => well("API server", version),
        false => {
            let (major, minor) = KUBERNETES;
            line(
                Verdict::Wrong,
                "API server",
                version,
                format!("upgrade the cluster: koco needs {major}.{minor} or later"),
            )
        }
    }
}

fn clock(seen: &Observed) -> Line {
    let apart = seen.ahead.abs();
    if apart < SKEW {
        return well("clock", "this machine's is the API server's");
    }
    let word = if seen.ahead > 0 { "behind" } else { "ahead of" };
    let finding = format!("this machine's is {apart} s {word} the API server's");
    line(Verdict::Warning, "clock", finding, "synchronise both by NTP. koco itself goes by the API server's")
}

fn crds(seen: &Observed) -> Vec<Line> {
    const APPLY: &str =
        "upgrade the chart with crds.install=true, or `kubectl apply --server-side -f crds/` of the release";
    let judge = |(name, crd): &(&str, Seen<Option<u32>>)| {
        let subject = format!("CRD {name}");
        match (crd, &seen.served) {
            (Seen::Is(None), _) => line(Verdict::Wrong, &subject, "it is missing", APPLY),
            (Seen::Is(Some(found)), _) if *found < SCHEMA_VERSION => {
                let finding = format!("schema version {found}, and this release needs {SCHEMA_VERSION}");
                line(Verdict::Wrong, &subject, finding, APPLY)
            }
            (Seen::Is(Some(found)), _) if *found > SCHEMA_VERSION => {
                let finding = format!("schema version {found}, and this plugin knows {SCHEMA_VERSION}");
                line(Verdict::Warning, &subject, finding, "use the plugin of the release that is installed")
            }
            (Seen::Is(Some(found)), _) => well(&subject, format!("schema version {found}")),
            (Seen::Hidden(_), Seen::Is(true)) => well(&subject, "served; you may not read its schema version"),
            (Seen::Hidden(_), Seen::Is(false)) => line(Verdict::Wrong, &subject, "not served", APPLY),
            (Seen::Hidden(why), Seen::Hidden(_)) => hidden(&subject, why),
        }
    };
    seen.crds.iter().map(judge).collect()
}

fn roles(seen: &Observed) -> Vec<Line> {
    let roles = match &seen.roles {
        Seen::Is(roles) => roles,
        Seen::Hidden(why) => return vec![hidden("roles", why)],
    };
    let operator = &seen.operator;
    if roles.is_empty() {
        let finding = format!("no Deployment of koco in the namespace {operator}");
        let advice = "name its namespace with --operator-namespace, or install the chart";
        return vec![line(Verdict::Wrong, "roles", finding, advice)];
    }
    let missing = REQUIRED.iter().filter(|required| !roles.iter().any(|role| role.role == **required));
    let missing =
        missing.map(|name| line(Verdict::Wrong, name, "it has no Deployment", "install the chart again: helm upgrade"));
    roles.iter().map(|role| judge_role(role, operator)).chain(missing).collect()
}

fn judge_role(role: &Role, operator: &str) -> Line {
    let Role { role: subject, name, wanted, ready, version, .. } = role;
    let finding = format!("{ready} of {wanted} ready, version {version}");
    let look = format!(
        "kubectl -n {operator} describe pods -l app.kubernetes.io/component={subject}; kubectl -n {operator} logs deploy/{name}"
    );
    if *wanted == 0 {
        return line(
            Verdict::Wrong,
            subject,
            "scaled to 0",
            format!("kubectl -n {operator} scale deploy/{name} --replicas 1"),
        );
    }
    match ready {
        0 if subject == "worker" => {
            let advice =
                format!("{look}. Temporal's address, namespace, TLS and credentials decide whether it is ready");
            line(Verdict::Wrong, subject, finding, advice)
        }
        0 => line(Verdict::Wrong, subject, finding, look),
        ready if ready < wanted => line(Verdict::Warning, subject, finding, look),
        _ if version != env!("CARGO_PKG_VERSION") => {
            let finding = format!("{finding}, and this plugin is of {}", env!("CARGO_PKG_VERSION"));
            line(Verdict::Warning, subject, finding, "use the plugin of the release that is installed")
        }
        _ => well(subject, finding),
    }
}

fn leader(seen: &Observed) -> Line {
    let advice = format!("kubectl -n {} logs -l app.kubernetes.io/component=controller", seen.operator);
    let found = match &seen.lease {
        Seen::Is(found) => found.as_ref().filter(|leader| !leader.holder.is_empty()),
        Seen::Hidden(why) => return hidden("leader", why),
    };
    let Some(Leader { holder, renewed, seconds }) = found else {
        return line(Verdict::Wrong, "leader", "no controller leads", advice);
    };
    let age = renewed.map_or(i64::MAX, |t| seen.now.as_second().saturating_sub(t.as_second()));
    match age <= i64::from(*seconds) {
        true => well("leader", holder.as_str()),
        false => line(Verdict::Wrong, "leader", format!("{holder} leads, and has not said so for {age} s"), advice),
    }
}

fn gateways(seen: &Observed) -> Line {
    match &seen.gateways {
        Seen::Is(0) => {
            let advice =
                format!("kubectl -n {} get endpointslices,pods -l app.kubernetes.io/component=gateway", seen.operator);
            line(Verdict::Wrong, "gateway's Service", "no gateway takes connections: runners can't register", advice)
        }
        Seen::Is(n) => well("gateway's Service", format!("{n} take connections")),
        Seen::Hidden(why) => hidden("gateway's Service", why),
    }
}

fn authority(seen: &Observed) -> Line {
    const SUBJECT: &str = "gateway's authority";
    match &seen.authority {
        Seen::Is(true) => well(SUBJECT, "published"),
        Seen::Is(false) => {
            let advice = format!(
                "the gateway publishes it when it starts: kubectl -n {} logs -l app.kubernetes.io/component=gateway",
                seen.operator
            );
            line(Verdict::Wrong, SUBJECT, "not published: no pod is created", advice)
        }
        Seen::Hidden(why) => hidden(SUBJECT, why),
    }
}

/// koco has no webhooks: what it refuses, the CRDs' rules and these policies do.
fn policies(seen: &Observed) -> Vec<Line> {
    let policies = match &seen.policies {
        Seen::Is(policies) => policies,
        Seen::Hidden(why) => return vec![hidden("admission policies", why)],
    };
    if policies.is_empty() {
        let finding =
            "there are none: inputs and template of a job can be changed, and its pods' labels be used by others";
        return vec![line(Verdict::Wrong, "admission policies", finding, "install them with the chart: helm upgrade")];
    }
    let judge = |policy: &Policy| {
        let subject = format!("policy {}", policy.name);
        match policy.bound {
            true => well(&subject, "in force"),
            false => line(Verdict::Wrong, &subject, "no binding puts it in force", "helm upgrade creates it again"),
        }
    };
    policies.iter().map(judge).collect()
}

fn temporal(seen: &Observed) -> Line {
    let roles = match &seen.roles {
        Seen::Is(roles) => roles,
        Seen::Hidden(why) => return hidden("Temporal", why),
    };
    let Some(address) = roles.iter().find_map(|role| role.temporal.as_ref()) else {
        return well("Temporal", "not configured: there is Direct mode only. For Temporal mode set temporal.address");
    };
    match roles.iter().filter(|role| role.role == "worker").map(|role| role.ready).max() {
        None => line(
            Verdict::Wrong,
            "Temporal",
            format!("{address}, and there is no worker"),
            "install the chart again: helm upgrade",
        ),
        Some(0) => {
            let advice = "see what the worker says; agents of Temporal jobs run on, and nothing is lost meanwhile";
            line(Verdict::Wrong, "Temporal", format!("no worker is connected to {address}"), advice)
        }
        Some(_) => well("Temporal", format!("workers are connected to {address}")),
    }
}

fn server(seen: &Observed) -> Line {
    const SUBJECT: &str = "server";
    let (operator, namespace) = (&seen.operator, &seen.namespace);
    let look = || {
        let pods = "-l app.kubernetes.io/component=server";
        format!(
            "kubectl -n {operator} describe pods {pods}; kubectl -n {operator} logs {pods}. Jobs don't depend on it"
        )
    };
    let trouble = match &seen.server {
        None => {
            return well(
                SUBJECT,
                "not installed: nothing is kept of jobs that are gone. For an archive set server.enabled",
            );
        }
        Some(Ok(user)) => {
            let finding = format!("reached, its database answers, and {user} may read the archive of {namespace}");
            return well(SUBJECT, finding);
        }
        Some(Err(trouble)) => trouble,
    };
    match trouble {
        Trouble::Forbidden(words) => line(Verdict::Unknown, SUBJECT, "you may not reach it", words),
        Trouble::Refused { status: 401 | 403, words } => {
            line(Verdict::Warning, SUBJECT, format!("reached, and it shows you nothing of {namespace}"), words)
        }
        Trouble::Refused { words, .. } => line(Verdict::Wrong, SUBJECT, format!("reached, but {words}"), look()),
        Trouble::Away(words) => line(Verdict::Wrong, SUBJECT, format!("not reached: {words}"), look()),
        // Without a sight of the roles there is no telling whether it should be there.
        Trouble::Missing(words) if matches!(seen.roles, Seen::Hidden(_)) => {
            line(Verdict::Unknown, SUBJECT, "not found", words)
        }
        Trouble::Missing(words) | Trouble::Final(words) => line(Verdict::Wrong, SUBJECT, "not reached", words),
    }
}

fn caller(seen: &Observed) -> Vec<Line> {
    let namespace = &seen.namespace;
    let may = |right| seen.rights.iter().find(|(asked, _)| *asked == right).map(|(_, may)| may.clone());
    let judge = |(command, needed): &(&str, &[rights::Right])| {
        let subject = format!("you: {command}");
        let lacking: Vec<_> = needed.iter().copied().filter(|right| may(*right) == Some(Seen::Is(false))).collect();
        let unknown = needed.iter().find_map(|right| match may(*right) {
            Some(Seen::Hidden(why)) => Some(why),
            _ => None,
        });
        if lacking.is_empty() {
            return match unknown {
                Some(why) => hidden(&subject, &why),
                None => well(&subject, format!("allowed in {namespace}")),
            };
        }
        let reads = lacking.iter().all(|(verb, ..)| ["get", "list", "watch"].contains(verb));
        let role = if reads { "view" } else { "edit" };
        let advice = format!(
            "have an administrator bind the role {role} to you: kubectl -n {namespace} create rolebinding NAME --clusterrole {role} --user YOU"
        );
        line(Verdict::Warning, &subject, format!("in {namespace} you lack: {}", rights::words(&lacking)), advice)
    };
    rights::RIGHTS.iter().map(judge).collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
