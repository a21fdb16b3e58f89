//! A request that is held on its way to the API server, and lets the test do something else first: the role that sent
//! it can be frozen, another take over, and then the request comes late.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::http::{Method, request::Parts};
use tokio::sync::watch;

use super::DEADLINE;

/// What a request is about, in the audit log's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub verb: &'static str,
    pub resource: String,
    pub subresource: Option<String>,
    pub name: Option<String>,
    pub body: String,
}

impl Asked {
    pub fn of(request: &Parts, body: &[u8]) -> Self {
        let path = request.uri.path().trim_matches('/').split('/').collect::<Vec<_>>();
        // /api/v1/..., /apis/GROUP/VERSION/...
        let rest = path.get(if path[0] == "api" { 2.. } else { 3.. }).unwrap_or_default();
        // Namespaces themselves are asked for like this, too.
        let rest = if rest.len() > 2 && rest[0] == "namespaces" { &rest[2..] } else { rest };
        let part = |n: usize| rest.get(n).map(ToString::to_string);
        let watches = request.uri.query().is_some_and(|q| q.contains("watch=true"));
        let verb = match (&request.method, rest.len() > 1) {
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, true) => "delete",
            (&Method::DELETE, false) => "deletecollection",
            (_, false) if watches => "watch",
            (_, true) => "get",
            (_, false) => "list",
        };
        let body = String::from_utf8_lossy(body).into_owned();
        Self { verb, resource: part(0).unwrap_or_default(), subresource: part(2), name: part(1), body }
    }

    /// Such as `create pods`, `patch agentjobs/status`.
    pub fn words(&self) -> String {
        let below = self.subresource.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
        format!("{} {}{below}", self.verb, self.resource)
    }

    pub fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }
}

#[derive(Clone, Debug)]
enum Stage {
    /// No such request yet.
    Waits,
    Held(Asked),
    /// It may go on.
    Released,
    /// What the API server answered it.
    Answered(u16),
}

type Wanted = dyn Fn(&Asked) -> bool + Send + Sync;

pub(super) struct Trap {
    wanted: Box<Wanted>,
    /// How many more are let through.
    skip: AtomicUsize,
    stage: watch::Sender<Stage>,
}

/// The requests that are to be held, each by the first trap that wants it.
#[derive(Clone, Default)]
pub(super) struct Traps(Arc<Mutex<Vec<Arc<Trap>>>>);

impl Traps {
    pub fn set(&self, skip: usize, wanted: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> Hold {
        let (stage, _) = watch::channel(Stage::Waits);
        let trap = Arc::new(Trap { wanted: Box::new(wanted), skip: skip.into(), stage });
        self.0.lock().expect("the traps").push(trap.clone());
        Hold { trap }
    }

    /// Springs the first trap that wants this request.
    pub fn spring(&self, asked: &Asked) -> Option<Arc<Trap>> {
        let mut traps = self.0.lock().expect("the traps");
        let found = traps.iter().position(|t| {
            (t.wanted)(asked) && t.skip.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_err()
        })?;
        let trap = traps.remove(found);
        // One that was released before anything came holds nothing.
        let held = trap.stage.send_if_modified(|stage| {
            let waits = matches!(stage, Stage::Waits);
            if waits {
                *stage = Stage::Held(asked.clone());
            }
            waits
        });
        held.then_some(trap)
    }
}

impl Trap {
    pub async fn released(&self) {
        let mut stage = self.stage.subscribe();
        let _ = stage.wait_for(|s| matches!(s, Stage::Released)).await;
    }

    pub fn answered(&self, code: u16) {
        self.stage.send_replace(Stage::Answered(code));
    }
}

/// One request that is held, or will be. Dropped, it lets it through.
pub struct Hold {
    trap: Arc<Trap>,
}

impl Hold {
    /// Waits until the request is here, and answers what it is. The API server has not received it.
    pub async fn reached(&self) -> Asked {
        let mut stage = self.trap.stage.subscribe();
        let reached = stage.wait_for(|s| !matches!(s, Stage::Waits));
        let reached = tokio::time::timeout(DEADLINE, reached).await.expect("no such request came");
        match &*reached.expect("the trap lives") {
            Stage::Held(asked) => asked.clone(),
            other => panic!("it was let through already: {other:?}"),
        }
    }

    /// Lets it through, even if its sender has ended.
    pub fn release(&self) {
        self.trap.stage.send_if_modified(|stage| {
            let not_yet = matches!(stage, Stage::Waits | Stage::Held(_));
            if not_yet {
                *stage = Stage::Released;
            }
            not_yet
        });
    }

    /// Lets it through, and answers with which code the API server did.
    pub async fn late(&self) -> u16 {
        self.release();
        let mut stage = self.trap.stage.subscribe();
        let answered = stage.wait_for(|s| matches!(s, Stage::Answered(_)));
        let answered = tokio::time::timeout(DEADLINE, answered).await.expect("an answer");
        match &*answered.expect("the trap lives") {
            Stage::Answered(code) => *code,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}
