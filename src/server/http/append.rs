//! Takes events from gateways, which have authorised the runner that sends them. Used by [`super::router`].

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{Refusal, SharedState, events::kind};
use crate::{
    database::{Append, AppendError, Event, Fid},
    protocol::events::{MAX_BODY_BYTES, Stored, decode},
    server::Server,
};

/// The bytes that a batch counts as, at least.
const LEAST: usize = 4 * 1024;
/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(5);
/// How long the database may take.
const COMMIT: Duration = Duration::from_secs(8);
/// How long the namespace of an execution is known.
const NAMESPACE: Duration = Duration::from_secs(3600);

/// Appends a batch, and answers when it is committed.
pub async fn append(
    State(server): SharedState,
    Path((fid, run)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let answer = store(&server, &fid, &run, request).await;
    let outcome = match &answer {
        Ok((StatusCode::CONFLICT, _)) => "Gap",
        Ok(_) => "Stored",
        Err(refusal) => refusal.reason(),
    };
    server.metrics.appends.of([outcome]).inc();
    if answer == Err(Refusal::DiskFull) {
        // What is old may go at once.
        server.full.notify_one();
    }
    answer.map(|(status, stored)| (status, Json(Stored { stored })).into_response())
}

/// Stores a batch: the number of the last event that is stored of its run then.
async fn store(server: &Arc<Server>, fid: &str, run: &str, request: Request) -> Result<(StatusCode, u64), Refusal> {
    let fid: Fid = fid.parse().map_err(|what: &str| Refusal::Malformed(what.into()))?;
    let run: i64 = run.parse().ok().filter(|run| *run > 0).ok_or(Refusal::Malformed("run: a number".into()))?;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|h| h.to_str().ok()?.parse().ok());
    let length = length.unwrap_or(MAX_BODY_BYTES);
    if length > MAX_BODY_BYTES {
        return Err(Refusal::TooLarge);
    }
    let namespace = server.namespace(fid).await?;
    let place = server.limits.bytes.enter_with(namespace, length.max(LEAST)).ok_or(Refusal::Busy)?;
    let body = timeout(BODY, to_bytes(request.into_body(), MAX_BODY_BYTES)).await.map_err(|_| Refusal::Timeout)?;
    let batch = batch(fid, run, body.map_err(|_| Refusal::TooLarge)?)?;
    let task = {
        let server = server.clone();
        tokio::spawn(async move {
            let answer = server.database.append(batch).await;
            if answer.is_ok() {
                server.live.appended(fid);
            }
            // Its bytes count until it is committed, whether somebody still waits for the answer or not.
            drop(place);
            answer
        })
    };
    let answer = timeout(COMMIT, task).await.map_err(|_| Refusal::Timeout)?.map_err(|_| Refusal::Database)?;
    match answer {
        Ok(to) => Ok((StatusCode::OK, to.unsigned_abs())),
        Err(AppendError::Gap { stored }) => Ok((StatusCode::CONFLICT, stored.unsigned_abs())),
        Err(AppendError::Unknown(_)) => Err(Refusal::NotFound),
        Err(AppendError::Deleted(_)) => Err(Refusal::Deleted),
        Err(AppendError::Ended(_)) => Err(Refusal::Ended),
        Err(AppendError::Invalid(what)) => Err(Refusal::Malformed(what.into())),
        Err(AppendError::Database(error)) => Err(error.into()),
    }
}

impl Server {
    /// The namespace of an execution, which never changes.
    async fn namespace(&self, fid: Fid) -> Result<String, Refusal> {
        let ask = || {
            let database = self.database.clone();
            async move {
                match database.namespace(fid).await {
                    Ok(Some(namespace)) => Some((Ok(namespace), NAMESPACE)),
                    // It may be there the next moment.
                    Ok(None) => Some((Err(Refusal::NotFound), Duration::ZERO)),
                    Err(error) => Some((Err(error.into()), Duration::ZERO)),
                }
            }
        };
        self.namespaces.ask(fid, ask).await.unwrap_or(Err(Refusal::Database))
    }
}

/// What a body says.
fn batch(fid: Fid, run: i64, body: Bytes) -> Result<Append, Refusal> {
    let (batch, events) = decode(&body).map_err(|error| Refusal::Malformed(error.to_string()))?;
    let number = |number: u64| i64::try_from(number).map_err(|_| Refusal::Malformed("a number is too large".into()));
    let events = events.into_iter().map(|e| Event { ts: e.ts, kind: kind(e.kind), payload: e.payload }).collect();
    Ok(Append { fid, run, from: number(batch.from)?, oldest: number(batch.oldest)?, events })
}
