//! A runner without an agent: speaks to the gateway as `koco-runner` does, in single steps. Which run is its own, where
//! the gateway is and whom it trusts, it has from its pod's environment; its token is its pod's, its key its own.
//! [`super::player`] takes these steps by itself.

use std::time::Duration;

use k8s_openapi::api::{authentication::v1::BoundObjectReference, core::v1::Pod};
use koco::{
    api::{ErrorStatus, RunnerState, TerminationType, names},
    protocol::{
        events::{self, Batch, Event, Kind, Stored},
        runner::{
            AgentEnd, Confirm, ControlMessage, EndReport, ErrorResponse, Heartbeat, Job, PING_SECONDS, Progress,
            Register, RunPath, env, verb,
        },
        termination,
    },
};
use rcgen::{KeyPair, PKCS_ED25519};
use serde::Serialize;
use serde_json::Value;

use super::{
    DEADLINE, Test,
    gateway_client::{identity, token_of},
    within,
};

/// How long an answer may take to begin.
const REQUEST: Duration = Duration::from_secs(5);

/// Why a gateway refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// With this code, and for this reason.
    Code(u16, String),
    /// No gateway answers.
    Nobody(String),
}

impl Refused {
    /// Whether a retry is pointless.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Code(403 | 404 | 410, _))
    }

    pub fn code(&self) -> u16 {
        match self {
            Self::Code(code, _) => *code,
            Self::Nobody(_) => 0,
        }
    }
}

pub struct Runner {
    pub run: RunPath,
    /// The UID of its job, and the number of its run.
    pub job_uid: String,
    pub number: i32,
    pub pod: String,
    key: KeyPair,
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Runner {
    /// The runner in a pod of this test.
    pub async fn of(test: &Test, pod: &Pod) -> Self {
        Self::in_pod(test.client.clone(), pod).await
    }

    pub async fn in_pod(client: kube::Client, pod: &Pod) -> Self {
        // Wherever admission has put it.
        let containers = &pod.spec.as_ref().expect("a spec").containers;
        let set: Vec<_> = containers.iter().flat_map(|c| c.env.clone().unwrap_or_default()).collect();
        let get = |name: &str| {
            let found = set.iter().find(|e| e.name == name).and_then(|e| e.value.clone());
            found.unwrap_or_else(|| panic!("{name} is not in the pod's environment"))
        };
        let run = RunPath { namespace: get(env::NAMESPACE), name: get(env::RUN) };
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let url = reqwest::Url::parse(&get(env::GATEWAY_URL)).expect("a URL");
        let port = url.port().expect("a port");
        let address = format!("{}:{port}", url.host_str().expect("a host")).parse().expect("an address");
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The certificate has the same name wherever the gateway is.
        let http = reqwest::Client::builder()
            .tls_certs_only(
                reqwest::Certificate::from_pem_bundle(get(env::GATEWAY_CA).as_bytes()).expect("a certificate"),
            )
            .identity(identity(&key))
            .resolve(names::GATEWAY_TLS_NAME, address)
            .no_proxy()
            // A suspended gateway counts as unreachable.
            .connect_timeout(REQUEST)
            .read_timeout(3 * Duration::from_secs(PING_SECONDS))
            .build()
            .expect("a client");
        let url = format!("https://{}:{port}", names::GATEWAY_TLS_NAME);
        let name = pod.metadata.name.clone().expect("a name");
        let label = |key: &str| pod.metadata.labels.as_ref().expect("labels")[key].clone();
        let (job_uid, number) =
            (label(names::LABEL_JOB_UID), label(names::LABEL_RUN_NUMBER).parse().expect("a number"));
        Self { run, job_uid, number, pod: name, key, client: http, url, token: token(&client, pod).await }
    }

    /// Registers, once.
    pub async fn register(&self, state: RunnerState, generation: i64) -> Result<Job, Refused> {
        let job = self.registers(Register { state, generation, has_job: false }).await?;
        job.ok_or_else(|| Refused::Nobody("no job".into()))
    }

    /// Registers, once, after it has got its job, and answers whether it got it again.
    pub async fn register_again(&self, state: RunnerState, generation: i64) -> Result<Option<Job>, Refused> {
        self.registers(Register { state, generation, has_job: true }).await
    }

    async fn registers(&self, register: Register) -> Result<Option<Job>, Refused> {
        let answer = self.post(verb::REGISTER, &register).await?;
        answer.json().await.map_err(|e| Refused::Nobody(e.to_string()))
    }

    /// Registers until it gets its job.
    pub async fn welcome(&self) -> Job {
        within(DEADLINE, &format!("a job for {}", self.pod), async || self.register(RunnerState::Waiting, 0).await)
            .await
    }

    /// Opens a stream of control messages.
    pub async fn messages(&self) -> Result<ControlStream, Refused> {
        let response = self.send(self.client.get(self.url(verb::MESSAGES))).await?;
        Ok(ControlStream { response, buffer: Vec::new() })
    }

    pub async fn heartbeat(&self, state: RunnerState, generation: i64) -> Result<(), Refused> {
        self.post(verb::HEARTBEAT, &Heartbeat { state, generation, progress: None, between: false }).await.map(drop)
    }

    /// What its running agent reports of its progress.
    pub async fn reports(&self, progress: &Progress) -> Result<(), Refused> {
        let (state, progress) = (RunnerState::Running, Some(progress.clone()));
        self.post(verb::HEARTBEAT, &Heartbeat { state, generation: 0, progress, between: true }).await.map(drop)
    }

    pub async fn confirm(&self, state: RunnerState, generation: i64, problem: Option<&str>) -> Result<(), Refused> {
        let problem = problem.map(str::to_string);
        self.post(verb::CONFIRM, &Confirm { state, generation, problem }).await.map(drop)
    }

    pub async fn outcome(&self, generation: i64, ending: AgentEnd) -> Result<(), Refused> {
        self.outcome_missing(generation, ending, None).await
    }

    /// The same, with so many events that aren't known to be stored.
    pub async fn outcome_missing(
        &self,
        generation: i64,
        end: AgentEnd,
        events_missing: Option<u64>,
    ) -> Result<(), Refused> {
        self.outcome_of(generation, end, None, events_missing).await
    }

    /// The same, with so many events in all.
    pub async fn outcome_of(
        &self,
        generation: i64,
        end: AgentEnd,
        events: Option<u64>,
        events_missing: Option<u64>,
    ) -> Result<(), Refused> {
        self.ends(&EndReport { generation, end, progress: None, events, events_missing }).await
    }

    /// Reports an end.
    pub async fn ends(&self, report: &EndReport) -> Result<(), Refused> {
        self.post(verb::END, report).await.map(drop)
    }

    /// Sends lines of output, of which the first has number `from`. The response's code, and what is stored.
    pub async fn tell(&self, from: u64, oldest: u64, lines: &[String]) -> Result<(u16, u64), Refused> {
        self.tell_of(&self.run, from, oldest, lines).await
    }

    /// The same, of any run.
    pub async fn tell_of(
        &self,
        run: &RunPath,
        from: u64,
        oldest: u64,
        lines: &[String],
    ) -> Result<(u16, u64), Refused> {
        let event = |line: &String| Event { ts: 1_800_000_000.5, kind: Kind::Stdout, payload: line.clone() };
        let all: Vec<Event> = lines.iter().map(event).collect();
        self.tell_events(run, Batch { from, oldest }, &all).await
    }

    /// The same, with events of any kind.
    pub async fn tell_events(&self, run: &RunPath, batch: Batch, all: &[Event]) -> Result<(u16, u64), Refused> {
        let body = events::encode(batch, all).expect("a body");
        let request = self.client.post(format!("{}{}", self.url, run.path(verb::EVENTS))).body(body);
        let request = request.header("content-type", events::CONTENT_TYPE);
        // Longer than a gateway waits for a server.
        let answer = tokio::time::timeout(4 * REQUEST, request.send()).await;
        let answer = answer.map_err(|e| Refused::Nobody(e.to_string()))?.map_err(|e| Refused::Nobody(e.to_string()))?;
        let (status, body) = (answer.status().as_u16(), answer.bytes().await.unwrap_or_default());
        match serde_json::from_slice::<Stored>(&body) {
            Ok(told) if status == 200 || status == 409 => Ok((status, told.stored)),
            _ => {
                let reason =
                    serde_json::from_slice::<ErrorResponse>(&body).map_or_else(|e| e.to_string(), |p| p.reason);
                Err(Refused::Code(status, reason))
            }
        }
    }

    /// What it leaves as its container's termination message.
    pub fn termination_message(&self, ending: &AgentEnd) -> String {
        termination::sign(ending, &self.key).expect("a message")
    }

    fn url(&self, verb: &str) -> String {
        format!("{}{}", self.url, self.run.path(verb))
    }

    async fn post(&self, verb: &str, body: &impl Serialize) -> Result<reqwest::Response, Refused> {
        self.send(self.client.post(self.url(verb)).json(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Refused> {
        let answer = tokio::time::timeout(REQUEST, request.bearer_auth(&self.token).send()).await;
        let answer = answer.map_err(|e| Refused::Nobody(e.to_string()))?.map_err(|e| Refused::Nobody(e.to_string()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let reason = answer.json::<ErrorResponse>().await.map_or_else(|e| e.to_string(), |p| p.reason);
        Err(Refused::Code(status.as_u16(), reason))
    }
}

/// The token that the kubelet would project into the pod.
async fn token(client: &kube::Client, pod: &Pod) -> String {
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let ns = pod.metadata.namespace.as_deref().expect("a namespace");
    token_of(client, ns, account, Some(names::GATEWAY_AUDIENCE), Some(bound)).await
}

/// A stream of control messages.
pub struct ControlStream {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl ControlStream {
    /// The next message, pings included; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<ControlMessage> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an order"));
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.ok()??);
        }
    }

    /// Waits for a matching message; skips those before it.
    pub async fn until(&mut self, what: &str, is: impl Fn(&ControlMessage) -> bool) -> ControlMessage {
        let found = async {
            loop {
                match self.next().await {
                    Some(order) if is(&order) => return order,
                    Some(_) => {}
                    None => panic!("the stream of orders ended before {what}"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    pub async fn grant(&mut self) -> ControlMessage {
        self.until("the grant", |o| matches!(o, ControlMessage::Grant { .. })).await
    }
}

/// How an agent ended: as the real runner puts it.
pub fn ending(kind: TerminationType, started: bool) -> AgentEnd {
    AgentEnd {
        kind,
        started,
        error: None,
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 0,
        usage: Default::default(),
        result_omitted: false,
    }
}

pub fn succeeded(result: Value) -> AgentEnd {
    AgentEnd { exit_code: Some(0), result: Some(result), ..ending(TerminationType::Succeeded, true) }
}

pub fn failed(kind: &str, exit_code: i32) -> AgentEnd {
    let error = ErrorStatus { kind: kind.into(), message: format!("exit code {exit_code}") };
    AgentEnd { exit_code: Some(exit_code), error: Some(error), ..ending(TerminationType::Failed, true) }
}
