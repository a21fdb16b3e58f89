//! Who may send a request, decided before its body is read. A runner is known by the key that its run records. Until
//! there is one, the token of the run's pod counts, once. Everybody else is a stranger: strangers share a few places, and
//! no request of theirs counts against the runners'.

use std::{net::IpAddr, sync::Arc, time::Instant};

use super::{events::Events, progress::Writes};
use crate::{
    api::{AgentRun, names},
    gateway::{Gateway, server::Refusal},
    platform::http::{
        Connection, Pod,
        limits::{Buckets, Place, Shares},
    },
    protocol::{key::PublicKey, runner::RunPath},
};

/// How many requests of runners are worked on at a time; streams count only until they begin.
const RUNNERS: usize = 1024;
/// How many of them may be of one namespace, and of one run.
const NAMESPACE: usize = RUNNERS / 2;
const RUN: usize = 8;
/// How many requests of strangers are worked on at a time, and from one address.
const STRANGERS: usize = 128;
const ADDRESS: usize = 64;
/// How many live reads and token reviews strangers of one address cause: burst, and rate a second. All pods of a node may
/// have one address.
const READS: (u32, f64) = (128, 32.0);

/// What a request says of its sender.
pub struct Client {
    /// The run that it is about.
    pub run: RunPath,
    /// Its key; it holds the private key.
    pub key: PublicKey,
    /// Whether it registers, with a token if it has one.
    pub registers: bool,
    /// Whether it brings events.
    pub has_events: bool,
}

/// A request's sender: the runner of a run.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The run; its copy may be stale.
    pub run: Arc<AgentRun>,
    /// The runner's key.
    pub key: PublicKey,
    /// Its pod, if its token was reviewed because the run has no key yet.
    pub pod: Option<Pod>,
}

/// The limits.
pub struct Limits {
    namespaces: Arc<Shares<String>>,
    runs: Arc<Shares<String>>,
    strangers: Arc<Shares<IpAddr>>,
    reads: Buckets<IpAddr>,
    /// Those of events.
    pub events: Events,
    /// That of writes of agents' progress.
    pub progress: Writes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            namespaces: Shares::new(RUNNERS, NAMESPACE),
            runs: Shares::new(usize::MAX, RUN),
            strangers: Shares::new(STRANGERS, ADDRESS),
            reads: Buckets::new(READS.0, READS.1),
            events: Events::default(),
            progress: Writes::default(),
        }
    }
}

/// A request's places, kept until it is answered.
pub enum Places {
    /// A runner's.
    Runner { _namespace: Place<String>, _run: Place<String> },
    /// Those of a runner's events.
    Events { _both: [Place<String>; 2] },
    /// A stranger's.
    Stranger { _address: Place<IpAddr> },
}

/// Whether these may be the names of a run: they become a part of a path on the API server.
fn are_names(run: &RunPath) -> bool {
    names::is_object_name(&run.namespace) && names::is_object_name(&run.name)
}

/// Whether the sender is the runner of this run, open or closed.
pub fn identify(run: &AgentRun, key: &PublicKey, pod: Option<&Pod>) -> Result<(), Refusal> {
    if !run.has_its_name() {
        return Err(Refusal::ForeignRun);
    }
    match recorded_key(run) {
        Some(recorded) if recorded == *key => Ok(()),
        Some(_) => Err(Refusal::NotTheRunner),
        // A tombstone: the runner of the run that it replaces is to end.
        None if run.is_closed() => Err(Refusal::RunClosed),
        // Its pod's name has a random part, and the UID is recorded with the key.
        None => match pod {
            Some(pod) if run.metadata.namespace.as_ref() != Some(&pod.namespace) => Err(Refusal::ForeignNamespace),
            Some(pod) if pod.name == run.spec.identity.pod_name && !pod.name.is_empty() && !pod.uid.is_empty() => {
                Ok(())
            }
            Some(_) => Err(Refusal::NotTheRunner),
            None => Err(Refusal::NotRegistered),
        },
    }
}

fn recorded_key(run: &AgentRun) -> Option<PublicKey> {
    PublicKey::parse(run.status.as_ref()?.public_key.as_deref()?)
}

impl Admitted {
    /// Whether the sender is still the run's runner, by a newer copy, and the run is open.
    pub fn authorise(&self, run: &AgentRun) -> Result<(), Refusal> {
        identify(run, &self.key, self.pod.as_ref())?;
        if run.is_closed() { Err(Refusal::RunClosed) } else { Ok(()) }
    }

    /// The run, if it is open.
    pub fn open(&self) -> Result<&Arc<AgentRun>, Refusal> {
        if self.run.is_closed() { Err(Refusal::RunClosed) } else { Ok(&self.run) }
    }
}

impl Gateway {
    /// The sender of a request and its places, if it is a run's runner.
    pub async fn admit(
        &self,
        client: Client,
        token: Option<&str>,
        connection: &Connection,
    ) -> Result<(Admitted, Places), Refusal> {
        if !are_names(&client.run) {
            return Err(Refusal::Malformed("the names in the path".into()));
        }
        let watched = |n: &Option<String>| n.as_ref().is_none_or(|n| *n == client.run.namespace);
        if !self.namespaces.iter().any(watched) {
            return Err(Refusal::NotWatched);
        }
        let cached = self.runs.named(&client.run.namespace, &client.run.name);
        if let Some(run) = &cached
            && identify(run, &client.key, None).is_ok()
        {
            return self.admit_runner(run.clone(), client, connection);
        }
        if client.has_events
            && let Some(run) = self.limits.events.closed(&client.run, &client.key)
        {
            return self.admit_runner(run, client, connection);
        }
        let _address = self.limits.strangers.enter(connection.address).ok_or(Refusal::TooOften)?;
        let (run, pod) = self.introduce(cached, &client, token, connection.address).await?;
        if pod.is_none() {
            if client.has_events && run.is_closed() {
                self.limits.events.note_closed(&client.run, &client.key, &run);
            }
            return self.admit_runner(run, client, connection);
        }
        Ok((Admitted { run, key: client.key, pod }, Places::Stranger { _address }))
    }

    fn admit_runner(
        &self,
        run: Arc<AgentRun>,
        client: Client,
        connection: &Connection,
    ) -> Result<(Admitted, Places), Refusal> {
        connection.is_known();
        // It lives, whatever becomes of its request; that says nothing of others, whose namespaces have places of their own.
        self.sessions.of(run.uid()).heard();
        if client.has_events {
            let _both = self.limits.events.enter(&client.run.namespace, run.uid())?;
            return Ok((Admitted { run, key: client.key, pod: None }, Places::Events { _both }));
        }
        let _run = self.limits.runs.enter(run.uid().into()).ok_or(Refusal::TooOften)?;
        let _namespace = self.limits.namespaces.enter(client.run.namespace).ok_or(Refusal::Busy)?;
        Ok((Admitted { run, key: client.key, pod: None }, Places::Runner { _namespace, _run }))
    }

    /// The run of a sender that the copies don't know, and its pod if the run has no key yet.
    async fn introduce(
        &self,
        cached: Option<Arc<AgentRun>>,
        client: &Client,
        token: Option<&str>,
        address: IpAddr,
    ) -> Result<(Arc<AgentRun>, Option<Pod>), Refusal> {
        let may_cost = || self.limits.reads.take(address, Instant::now()).map_err(|_| Refusal::TooOften);
        let needs_token = |run: &AgentRun| client.registers && recorded_key(run).is_none();
        if let Some(run) = cached {
            let pod = if needs_token(&run) {
                may_cost()?;
                Some(self.authenticator.holder(token).await?)
            } else {
                None
            };
            match identify(&run, &client.key, pod.as_ref()) {
                Ok(()) => return Ok((run, pod)),
                Err(refusal) if !refusal.may_be_stale() => return Err(refusal),
                Err(_) => {}
            }
        }
        // The copies are only of open runs, and a run is created before its pod: one that does not exist is gone.
        may_cost()?;
        let live = Arc::new(self.runs.read_named(&client.run).await?);
        // A token that was reviewed above is not reviewed again.
        let pod = if needs_token(&live) { Some(self.authenticator.holder(token).await?) } else { None };
        identify(&live, &client.key, pod.as_ref()).inspect_err(|refusal| {
            let (run, reason) = (&client.run, refusal.reason());
            tracing::warn!(%run, %address, reason, "a request is not of the run's runner");
        })?;
        Ok((live, pod))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::fixtures::{fresh_run, key, parts, pod, run, termination};

    fn admitted(run: AgentRun, key: PublicKey, pod: Option<Pod>) -> Admitted {
        Admitted { run: Arc::new(run), key, pod }
    }

    #[test]
    fn only_the_recorded_key_is_the_runners() {
        assert_eq!(identify(&run(), &key(1), None), Ok(()));
        assert_eq!(identify(&run(), &key(2), None), Err(Refusal::NotTheRunner));
        assert_eq!(identify(&run(), &key(2), Some(&pod())), Err(Refusal::NotTheRunner), "with the pod's token neither");
        let mut named = run();
        named.spec.identity.job_uid = "another".into();
        assert_eq!(identify(&named, &key(1), None), Err(Refusal::ForeignRun));
    }

    #[test]
    fn before_there_is_a_key_the_pods_token_counts() {
        assert_eq!(identify(&fresh_run(), &key(1), Some(&pod())), Ok(()));
        assert_eq!(identify(&fresh_run(), &key(1), None), Err(Refusal::NotRegistered));
        let other = Pod { name: "x-3".into(), ..pod() };
        assert_eq!(identify(&fresh_run(), &key(1), Some(&other)), Err(Refusal::NotTheRunner));
        let foreign = Pod { namespace: "b".into(), ..pod() };
        assert_eq!(identify(&fresh_run(), &key(1), Some(&foreign)), Err(Refusal::ForeignNamespace));
        let mut nameless = fresh_run();
        nameless.spec.identity.pod_name = String::new();
        let nobody = Pod { name: String::new(), ..pod() };
        assert_eq!(identify(&nameless, &key(1), Some(&nobody)), Err(Refusal::NotTheRunner));
        let nobody = Pod { uid: String::new(), ..pod() };
        assert_eq!(identify(&fresh_run(), &key(1), Some(&nobody)), Err(Refusal::NotTheRunner));
    }

    #[test]
    fn a_closed_run_is_closed_to_its_own_runner_only() {
        let mut ended = run();
        ended.status.as_mut().unwrap().termination = Some(termination());
        let runner = admitted(ended.clone(), key(1), None);
        assert_eq!(runner.authorise(&ended), Err(Refusal::RunClosed));
        assert_eq!(runner.open().err(), Some(Refusal::RunClosed));
        assert_eq!(admitted(ended.clone(), key(2), None).authorise(&ended), Err(Refusal::NotTheRunner));
        let mut tombstone = fresh_run();
        tombstone.spec.identity.tombstone = true;
        for pod in [None, Some(pod())] {
            assert_eq!(identify(&tombstone, &key(1), pod.as_ref()), Err(Refusal::RunClosed));
        }
    }

    #[tokio::test]
    async fn a_runner_without_a_place_was_heard_and_no_other_with_it() {
        let client = kube::Client::try_from(kube::Config::new("http://localhost:1".parse().unwrap())).unwrap();
        let gateway = Gateway::new(parts(client, "127.0.0.1:0"), Default::default());
        let run = Arc::new(run());
        let admit_with = |has_events| {
            let path = RunPath { namespace: "a".into(), name: run.name().into() };
            let client = Client { run: path, key: key(1), registers: false, has_events };
            gateway.admit_runner(run.clone(), client, &Connection::from([10, 0, 0, 1]))
        };
        let admit = || admit_with(false);
        let all: Vec<_> = (0..NAMESPACE).map_while(|_| gateway.limits.namespaces.enter("a".into())).collect();
        for uid in [run.uid(), "another"] {
            gateway.sessions.of(uid).heard();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let before = Instant::now();
        assert_eq!(admit().err(), Some(Refusal::Busy));
        assert!(admit_with(true).is_ok(), "events have places of their own");
        assert!(gateway.sessions.time_since_contact(run.uid()) <= before.elapsed());
        assert!(gateway.sessions.time_since_contact("another") > before.elapsed(), "it may be called silent");
        assert!(gateway.limits.namespaces.enter("b".into()).is_some(), "and another namespace has its own places");
        drop(all);
        assert!(admit().is_ok());
    }

    #[test]
    fn a_name_is_no_path() {
        let path = |namespace: &str, name: &str| RunPath { namespace: namespace.into(), name: name.into() };
        assert!(are_names(&path("a", "x-2")));
        for name in ["../../b/agentruns/x", "x/status", "", "x?y", "..", "A", "x%2f"] {
            assert!(!are_names(&path("a", name)) && !are_names(&path(name, "x")), "{name}");
        }
    }
}
