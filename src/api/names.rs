//! The names that we give to things in a cluster and in Temporal. Pure functions of the job, so that every role and every
//! restart comes to the same ones.

use sha2::{Digest, Sha256};

/// Label on every runner pod: the UID of its job. What we select pods by.
pub const LABEL_JOB_UID: &str = "kodosumi.io/job-uid";
/// Label on every runner pod: the name of its job, for people.
pub const LABEL_JOB_NAME: &str = "kodosumi.io/job-name";
/// Label on every runner pod: its epoch.
pub const LABEL_EPOCH: &str = "kodosumi.io/epoch";
/// Label on every runner pod: always [`RUNNER_COMPONENT`].
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// The value of [`LABEL_COMPONENT`] on runner pods.
pub const RUNNER_COMPONENT: &str = "agent-runner";
/// Annotation on an AgentJob: a fresh id asks again for the state that the spec already names.
pub const ANNOTATION_REQUEST: &str = "kodosumi.io/control-request";
/// Label on an AgentJob that `kubectl koco retry` made: the job that it repeats.
pub const LABEL_RETRY_OF: &str = "kodosumi.io/retry-of";
/// Finalizer of jobs in Temporal mode: their workflow is cancelled before they go.
pub const FINALIZER: &str = "kodosumi.io/workflow";
/// The audience of the token with which a runner proves to the gateway which pod it is in.
pub const GATEWAY_AUDIENCE: &str = "koco-gateway";
/// The ConfigMap, in the operator's namespace, with the certificate authority of the gateway under `ca.crt`.
pub const GATEWAY_CA: &str = "koco-gateway-ca";
/// The name in the gateway's certificate, whatever address it is reached at.
pub const GATEWAY_TLS_NAME: &str = "koco-gateway";

/// The name of the pod of an epoch: the job's name (cut to 43 characters), five digits of its UID's SHA-256, the epoch.
/// At most 63 characters, as it becomes a host name.
pub fn pod(job: &str, uid: &str, epoch: i32) -> String {
    let digest = hex::encode(Sha256::digest(uid));
    let head: String = job.chars().take(43).collect();
    format!("{}-{}-{epoch}", head.trim_end_matches(['-', '.']), &digest[..5])
}

/// The id of a job's workflow: a function of the cluster and the object's UID, so that starting it again is no error and
/// two clusters may share a Temporal namespace.
pub fn workflow(cluster: &str, uid: &str) -> String {
    format!("agentjob-{cluster}-{uid}")
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
        assert!(pod(&long, "u", 99_999_999).len() <= 63);
        assert_ne!(pod("a", "u1", 1), pod("a", "u2", 1));
        assert_eq!(pod("a", "u", 1), pod("a", "u", 1));
    }
}
