//! A runner's stream of control messages: first the current state, then changes. The messages are decided by a pure
//! function of the run and of those sent before. Used by [`crate::gateway::requests`].

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::{
    api::AgentRun,
    gateway::{runs::RunUpdate, server::Refusal},
    protocol::runner::{ControlMessage, PING_SECONDS},
};

const PING: Duration = Duration::from_secs(PING_SECONDS);
/// How long a runner that has reported its end may take to receive the response before Stop is sent.
const FAREWELL: Duration = Duration::from_secs(2);

/// What was sent on a stream already.
#[derive(Default, Debug)]
pub struct Cursor {
    granted: bool,
    generation: Option<i64>,
}

/// The messages that the runner doesn't have yet. Commands come before the grant: a new runner must not start its agent
/// while a pause is wanted.
pub fn pending_messages(cursor: &mut Cursor, run: &AgentRun) -> Vec<ControlMessage> {
    if run.is_closed() {
        return vec![stop(&Refusal::RunClosed)];
    }
    let mut messages = vec![];
    if let Some(command) = &run.spec.command
        && cursor.generation.is_none_or(|said| command.generation > said)
    {
        cursor.generation = Some(command.generation);
        messages.push(ControlMessage::Command { desired: command.state, generation: command.generation });
    }
    if run.spec.grant.is_some() && !std::mem::replace(&mut cursor.granted, true) {
        messages.push(ControlMessage::Grant { attempt: run.spec.identity.attempt });
    }
    messages
}

fn stop(why: &Refusal) -> ControlMessage {
    ControlMessage::Stop { why: why.to_string() }
}

/// The inputs of a stream.
pub struct Source {
    /// The run as it was authorised, which may be ahead of the watch.
    pub run: Box<AgentRun>,
    /// Every change of the run.
    pub updates: watch::Receiver<RunUpdate>,
    /// Whether its workflow is known to be closed.
    pub workflow_closed: watch::Receiver<bool>,
    /// The number of the run's newest stream, and of this one: an older stream ends.
    pub newest: (watch::Receiver<u64>, u64),
    /// The runner's session: kept while the stream is open.
    pub _session: Arc<Session>,
    /// Ends all streams, so that runners connect to another gateway.
    pub drain: CancellationToken,
    /// This stream's share of the limit.
    pub _place: OwnedSemaphorePermit,
}

struct Stream {
    source: Source,
    cursor: Cursor,
    waiting: VecDeque<ControlMessage>,
    ping: Instant,
    farewell: Option<Instant>,
    ended: bool,
}

/// The body of the answer.
pub fn body(source: Source) -> Body {
    let mut cursor = Cursor::default();
    let waiting = pending_messages(&mut cursor, &source.run).into();
    let ping = Instant::now() + PING;
    let mut stream = Stream { source, cursor, waiting, ping, farewell: None, ended: false };
    // Includes changes since the run was authorised.
    stream.source.updates.mark_changed();
    stream.source.workflow_closed.mark_changed();
    stream.source.newest.0.mark_changed();
    Body::from_stream(stream::unfold(stream, |mut stream| async move {
        let lines = stream.next().await?;
        Some((Ok::<_, Infallible>(lines), stream))
    }))
}

impl Stream {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while self.waiting.is_empty() {
            if self.ended {
                return None;
            }
            let farewell = self.farewell;
            let source = &mut self.source;
            tokio::select! {
                () = source.drain.cancelled() => return None,
                changed = source.updates.changed(), if farewell.is_none() => {
                    let update =
                        if changed.is_ok() { source.updates.borrow_and_update().clone() } else { RunUpdate::Closed };
                    match update {
                        RunUpdate::Open(run) => self.waiting.extend(pending_messages(&mut self.cursor, &run)),
                        RunUpdate::ClosedByRunner => self.farewell = Some(Instant::now() + FAREWELL),
                        RunUpdate::Closed => self.waiting.push_back(stop(&Refusal::RunClosed)),
                    }
                }
                closed = source.workflow_closed.changed() => {
                    closed.ok()?;
                    if *source.workflow_closed.borrow_and_update() {
                        self.waiting.push_back(stop(&Refusal::WorkflowClosed));
                    }
                }
                newer = source.newest.0.changed() => {
                    newer.ok()?;
                    if *source.newest.0.borrow_and_update() != source.newest.1 {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(farewell.unwrap_or(self.ping)) => {
                    self.waiting.push_back(if farewell.is_some() { stop(&Refusal::RunClosed) } else { ControlMessage::Ping {} });
                }
            }
        }
        self.ping = Instant::now() + PING;
        self.ended = self.waiting.iter().any(|m| matches!(m, ControlMessage::Stop { .. }));
        let mut lines = vec![];
        for message in self.waiting.drain(..) {
            // Always serializes.
            if serde_json::to_writer(&mut lines, &message).is_ok() {
                lines.push(b'\n');
            }
        }
        Some(lines.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::DesiredState,
        gateway::fixtures::{command, grant, run, termination},
    };

    const GRANT: ControlMessage = ControlMessage::Grant { attempt: 1 };

    fn paused(generation: i64) -> ControlMessage {
        ControlMessage::Command { desired: DesiredState::Paused, generation }
    }

    #[test]
    fn each_thing_is_said_once_and_old_commands_never() {
        let (mut cursor, mut run) = (Cursor::default(), run());
        assert_eq!(pending_messages(&mut cursor, &run), []);
        run.spec.grant = Some(grant(0));
        assert_eq!(pending_messages(&mut cursor, &run), [GRANT]);
        run.spec.grant = Some(grant(1));
        assert_eq!(pending_messages(&mut cursor, &run), [], "a new binding is Temporal's business");
        run.spec.command = Some(command(4));
        assert_eq!(pending_messages(&mut cursor, &run), [paused(4)]);
        assert_eq!(pending_messages(&mut cursor, &run), []);
        run.spec.command = Some(command(3));
        assert_eq!(pending_messages(&mut cursor, &run), []);
    }

    #[test]
    fn a_new_stream_says_all_of_it_and_the_command_before_the_grant() {
        let mut run = run();
        run.spec.grant = Some(grant(0));
        run.spec.command = Some(command(1));
        assert_eq!(pending_messages(&mut Cursor::default(), &run), [paused(1), GRANT]);
    }

    #[test]
    fn a_closed_run_stops() {
        let mut run = run();
        run.spec.grant = Some(grant(0));
        run.status.as_mut().unwrap().termination = Some(termination());
        assert!(matches!(pending_messages(&mut Cursor::default(), &run)[..], [ControlMessage::Stop { .. }]));
    }
}
