//! Names of objects in the cluster and in Temporal. Pure functions of the job, so that every role computes the same
//! ones, also after a restart.

use sha2::{Digest, Sha256};

/// Label on every AgentRun and runner pod: the UID of its job. For users and policies: koco itself uses owner
/// references.
pub const LABEL_JOB_UID: &str = "kodosumi.io/job-uid";
/// Label on every AgentRun and runner pod: the name of its job, for users.
pub const LABEL_JOB_NAME: &str = "kodosumi.io/job-name";
/// Label on every AgentRun and runner pod: the number of the run.
pub const LABEL_RUN_NUMBER: &str = "kodosumi.io/run-number";
/// Label on every runner pod: always [`RUNNER_COMPONENT`].
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// The value of [`LABEL_COMPONENT`] on runner pods.
pub const RUNNER_COMPONENT: &str = "agent-runner";
/// Labels on everything that koco creates in users' namespaces.
pub const LABELS: [(&str, &str); 3] =
    [(LABEL_NAME, "koco-agent"), ("app.kubernetes.io/part-of", "koco"), ("app.kubernetes.io/managed-by", "koco")];
/// Label on everything that koco creates, and of runner pods what their template says instead.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// The domains of labels that say who manages an AgentJob. Its pods, and retries of it, don't inherit them: Argo CD, for
/// one, would take them for objects that it has created.
const MANAGERS: [&str; 5] = ["app.kubernetes.io", "argocd.argoproj.io", "helm.sh", "kodosumi.io", "toolkit.fluxcd.io"];
/// Annotation on an AgentJob: a new id requests the spec's desired state once more.
pub const ANNOTATION_REQUEST: &str = "kodosumi.io/control-request";
/// Annotation on an AgentJob, set by its creator: the trace that it is a part of, as W3C's `traceparent`. Copied to its
/// AgentRuns.
pub const ANNOTATION_TRACEPARENT: &str = "kodosumi.io/traceparent";
/// Annotation on an AgentJob, AgentRun or pod: requests that what doesn't fit of it is repaired. Any new value, by
/// convention the time.
pub const ANNOTATION_REPAIR: &str = "kodosumi.io/repair-requested-at";
/// Annotation on an AgentJob, by the controller: the value of the last [`ANNOTATION_REPAIR`] that it has handled.
pub const ANNOTATION_REPAIR_HANDLED: &str = "kodosumi.io/repair-handled-at";
/// Annotation on an AgentJob, by the controller: what it did about that.
pub const ANNOTATION_REPAIR_RESULT: &str = "kodosumi.io/repair-result";
/// Label on an AgentJob that `kubectl koco retry` created: the job that it repeats.
pub const LABEL_RETRY_OF: &str = "kodosumi.io/retry-of";
/// Finalizer of jobs in Temporal mode: their workflow is cancelled before they are deleted.
pub const FINALIZER: &str = "kodosumi.io/workflow";
/// The audience of the token with which a runner proves to the gateway which pod it is in.
pub const GATEWAY_AUDIENCE: &str = "koco-gateway";
/// The ConfigMap, in the operator's namespace, with the certificate authority of the gateway under `ca.crt`.
pub const GATEWAY_CA: &str = "koco-gateway-ca";
/// The NetworkPolicy of agents' pods, in each namespace that has AgentJobs.
pub const AGENT_NETWORK_POLICY: &str = "koco-agents";
/// The server name in the gateway's certificate, independent of its address.
pub const GATEWAY_TLS_NAME: &str = "koco-gateway";
/// The audience of the tokens with which people and programs read from the server.
pub const SERVER_AUDIENCE: &str = "koco";
/// The ConfigMap, in the operator's namespace, with the certificate authority of the server under `ca.crt`.
pub const SERVER_CA: &str = "koco-server-ca";
/// The server name in the server's certificate, independent of its address.
pub const SERVER_TLS_NAME: &str = "koco-server";
/// The service account in koco's namespace that the chart creates to read the archive as.
pub const ARCHIVE_READER: &str = "koco-archive-reader";
/// Annotation on an AgentJob that has ended and is to be deleted after a time, by the server: since when it is in the
/// archive as it ended.
pub const ANNOTATION_ARCHIVED: &str = "kodosumi.io/archived-at";
/// Annotation on an AgentJob: who created it and has it. Admission holds that it is true; the archive lists by it.
pub const ANNOTATION_OWNER: &str = "kodosumi.io/owner";

/// Annotation on a namespace: the URL of Temporal's UI, where `kubectl koco open` finds the workflows of its jobs.
pub const ANNOTATION_TEMPORAL_UI: &str = "kodosumi.io/temporal-ui";

/// Annotation on koco's CustomResourceDefinitions: the version of their schema, [`super::SCHEMA_VERSION`].
pub const ANNOTATION_SCHEMA_VERSION: &str = "kodosumi.io/schema-version";
/// The names of koco's CustomResourceDefinitions.
pub const CRDS: [&str; 3] = ["agentjobs.kodosumi.io", "agentruns.kodosumi.io", "agenttemplates.kodosumi.io"];
/// The API version of koco's resources.
pub const API_VERSION: &str = "kodosumi.io/v1alpha1";
/// Annotation on every runner pod: the name of the agent's container, which a webhook may have moved from the first
/// place.
pub const ANNOTATION_AGENT_CONTAINER: &str = "kodosumi.io/agent-container";

/// Whether pods and retries inherit an AgentJob's label.
pub fn is_inherited(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    !MANAGERS.iter().any(|of| domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// The name of a job's run: the job's name, eight digits of its UID's SHA-256, the number. So there is one object for
/// each number.
pub fn run(job: &str, uid: &str, number: i32) -> String {
    format!("{job}-{}-{number}", digest(uid, 8))
}

/// The name of the job in the name of a run; of another object it may be any text.
pub fn job_of(run: &str) -> Option<&str> {
    let mut parts = run.rsplitn(3, '-');
    parts.nth(2)
}

/// The name of a run's pod: the job's name (cut to 37 characters), five digits of its UID's SHA-256, the number, and a
/// random part that is at most five characters long. At most 63 characters, as it becomes a host name.
pub fn pod(job: &str, uid: &str, number: i32, random: &str) -> String {
    let head: String = job.chars().take(37).collect();
    format!("{}-{}-{number}-{random}", head.trim_end_matches(['-', '.']), digest(uid, 5))
}

fn digest(uid: &str, digits: usize) -> String {
    hex::encode(Sha256::digest(uid)).chars().take(digits).collect()
}

/// The id of the activity that waits for the end of a run.
pub fn activity(number: i32) -> String {
    format!("execute_agent-{number}")
}

/// The task queue of `start_runner`, from that of the workflows.
pub fn start_task_queue(task_queue: &str) -> String {
    format!("{task_queue}-start")
}

/// The id of an installation of koco in Temporal: its cluster, and the namespace of its release. Any number of them may
/// share a Temporal namespace.
pub fn installation(cluster: &str, namespace: &str) -> String {
    format!("{cluster}-{namespace}")
}

/// The task queue of an installation's workflows, unless another one is configured.
pub fn task_queue(installation: &str) -> String {
    format!("koco-{installation}")
}

/// The id of a job's workflow: a function of the installation and the object's UID, so that starting it again is no
/// error.
pub fn workflow(installation: &str, uid: &str) -> String {
    format!("agentjob-{installation}-{uid}")
}

/// Whether a workflow id is that of a job, in whatever installation: see [`workflow`].
pub fn is_workflow_of(id: &str, uid: &str) -> bool {
    const PREFIX: &str = "agentjob-";
    let head = id.strip_suffix(uid).filter(|_| !uid.is_empty());
    head.is_some_and(|head| head.starts_with(PREFIX) && head.len() > PREFIX.len() && head.ends_with('-'))
}

/// The UID of the job in the id of a workflow of this installation; `None` if the id is another's. Installations' names
/// may begin alike, so what follows must look like a UID.
pub fn job_uid<'a>(installation: &str, workflow: &'a str) -> Option<&'a str> {
    let uid = workflow.strip_prefix("agentjob-")?.strip_prefix(installation)?.strip_prefix('-')?;
    let dashes = [8, 13, 18, 23];
    let is_digit = |(i, c): (usize, char)| if dashes.contains(&i) { c == '-' } else { c.is_ascii_hexdigit() };
    (uid.len() == 36 && uid.char_indices().all(is_digit)).then_some(uid)
}

/// The number of the run whose end an activity waits for: see [`activity`].
pub fn run_of_activity(id: &str) -> Option<i32> {
    id.strip_prefix("execute_agent-")?.parse().ok()
}

/// Whether a text is the name of a namespaced object and can be a part of a path on the API server.
pub fn is_object_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !name.is_empty() && name.len() <= 253 && name.chars().all(plain) && name != "." && !name.contains("..")
}

/// The short id of a cluster: the first 8 characters of the UID of its `kube-system` namespace.
pub fn cluster(kube_system_uid: &str) -> String {
    kube_system_uid.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_names_fit_a_host_name_and_tell_jobs_apart() {
        let long = "a".repeat(63);
        assert!(pod(&long, "u", 99_999_999, "abcde").len() <= 63);
        assert_ne!(pod("a", "u1", 1, "r"), pod("a", "u2", 1, "r"));
        assert_ne!(run("a", "u1", 1), run("a", "u2", 1));
        assert_eq!(run("a", "u", 1), run("a", "u", 1));
        assert_eq!((job_of(&run("a-b", "u", 1)), job_of("a-b")), (Some("a-b"), None));
        assert!(run(&long, "u", i32::MAX).len() <= 253);
    }

    #[test]
    fn installations_have_workflows_and_task_queues_of_their_own() {
        let all = [installation("c1", "koco-system"), installation("c2", "koco-system"), installation("c1", "koco-2")];
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                assert_ne!(workflow(one, "u"), workflow(other, "u"));
                let queues = |i: &str| [task_queue(i), start_task_queue(&task_queue(i))];
                assert!(queues(one).iter().all(|q| !queues(other).contains(q)));
            }
        }
    }

    #[test]
    fn a_jobs_workflow_is_known_by_its_id() {
        assert!(is_workflow_of(&workflow("c", "u"), "u"));
        assert!(is_workflow_of(&workflow("a-b", "u"), "u"));
        for other in [workflow("c", "v"), workflow("c", "xu"), "agentjob-u".into(), "u".into()] {
            assert!(!is_workflow_of(&other, "u"), "{other}");
        }
        assert!(!is_workflow_of(&workflow("c", ""), ""));
    }

    #[test]
    fn workflows_of_an_installation_are_known_by_their_ids() {
        let uid = "2a6b5c60-9d1e-4a9b-8a8e-0123456789ab";
        assert_eq!(job_uid("c-koco", &workflow("c-koco", uid)), Some(uid));
        for (installation, id) in [("c-koco", workflow("c-koco-2", uid)), ("c-koco-2", workflow("c-koco", uid))] {
            assert_eq!(job_uid(installation, &id), None);
        }
        assert_eq!(job_uid("c", &workflow("c", "u")), None);
        assert_eq!((run_of_activity(&activity(3)), run_of_activity("start_runner-3")), (Some(3), None));
    }

    #[test]
    fn pods_inherit_no_label_of_who_manages_the_job() {
        for inherited in ["team", "example.com/cost", "kueue.x-k8s.io/queue-name", "nothelm.sh/x"] {
            assert!(is_inherited(inherited), "{inherited}");
        }
        for not in [LABEL_NAME, "kustomize.toolkit.fluxcd.io/name", "helm.sh/chart", LABEL_RETRY_OF, LABEL_JOB_UID] {
            assert!(!is_inherited(not), "{not}");
        }
    }

    #[test]
    fn a_name_is_no_path() {
        assert!(is_object_name("a-1.b"));
        for name in ["../../b/agentruns/x", "x/status", "", "x?y", ".", "..", "a..b", "A", &"a".repeat(254)] {
            assert!(!is_object_name(name), "{name}");
        }
    }
}
