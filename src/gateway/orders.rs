//! A runner's stream of orders: at first how things stand, then what changes. What is said is decided by a pure function of
//! the job and of what was said before. Used by [`super::requests`].

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::body::{Body, Bytes};
use futures::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{error::Refusal, jobs::Seen};
use crate::{
    api::AgentJob,
    protocol::runner::{Order, PING_SECONDS},
};

const PING: Duration = Duration::from_secs(PING_SECONDS);

/// What one stream has said already.
#[derive(Default, Debug)]
pub struct Said {
    permit: bool,
    seq: Option<i64>,
}

/// What is new to the runner of `epoch`. A copy of the job that is older than the runner's claim says nothing.
pub fn news(said: &mut Said, epoch: i32, job: &AgentJob) -> Vec<Order> {
    let Some(status) = &job.status else { return vec![] };
    let Some(claim) = status.claim.as_ref().filter(|c| c.epoch >= epoch) else { return vec![] };
    if claim.epoch > epoch {
        return vec![stop(&Refusal::Superseded)];
    }
    let mut orders = vec![];
    if claim.permit.is_some() && !std::mem::replace(&mut said.permit, true) {
        orders.push(Order::Permit { attempt: claim.attempt });
    }
    if let Some(command) = status.control.as_ref().and_then(|c| c.command.as_ref())
        && said.seq.is_none_or(|seq| command.seq > seq)
    {
        said.seq = Some(command.seq);
        orders.push(Order::Command { desired: command.state, seq: command.seq });
    }
    orders
}

fn stop(why: &Refusal) -> Order {
    Order::Stop { why: why.to_string() }
}

/// What a stream lives on.
pub struct Source {
    /// The runner's epoch.
    pub epoch: i32,
    /// The job as it was authorised, which may be ahead of the watch.
    pub job: Box<AgentJob>,
    /// Rings at each change of the job.
    pub bell: watch::Receiver<Seen>,
    /// The epoch whose workflow turned out to be closed.
    pub closed: watch::Receiver<Option<i32>>,
    /// The number of the job's newest stream, and of this one: an older stream ends.
    pub newest: (watch::Receiver<u64>, u64),
    /// Ends all streams, so that runners connect to another gateway.
    pub drain: CancellationToken,
    /// This stream's place among those that are allowed.
    pub _place: OwnedSemaphorePermit,
}

struct Stream {
    source: Source,
    said: Said,
    waiting: VecDeque<Order>,
    ping: Instant,
    ended: bool,
}

/// The body of the answer.
pub fn body(source: Source) -> Body {
    let mut said = Said::default();
    let waiting = news(&mut said, source.epoch, &source.job).into();
    let mut stream = Stream { source, said, waiting, ping: Instant::now() + PING, ended: false };
    // What changed since the job was authorised is seen at once.
    stream.source.bell.mark_changed();
    stream.source.closed.mark_changed();
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
            let source = &mut self.source;
            tokio::select! {
                () = source.drain.cancelled() => return None,
                rung = source.bell.changed() => {
                    let seen = if rung.is_ok() { source.bell.borrow_and_update().clone() } else { Seen::Over };
                    self.waiting.extend(match seen {
                        Seen::Job(job) => news(&mut self.said, source.epoch, &job),
                        Seen::Over => vec![stop(&Refusal::Over)],
                    });
                }
                closed = source.closed.changed() => {
                    closed.ok()?;
                    if *source.closed.borrow_and_update() == Some(source.epoch) {
                        self.waiting.push_back(stop(&Refusal::WorkflowClosed));
                    }
                }
                newer = source.newest.0.changed() => {
                    newer.ok()?;
                    if *source.newest.0.borrow_and_update() != source.newest.1 {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(self.ping) => self.waiting.push_back(Order::Ping {}),
            }
        }
        self.ping = Instant::now() + PING;
        self.ended = self.waiting.iter().any(|o| matches!(o, Order::Stop { .. }));
        let mut lines = vec![];
        for order in self.waiting.drain(..) {
            // Our own enums are always JSON.
            if serde_json::to_writer(&mut lines, &order).is_ok() {
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
        gateway::fixtures::{self, command, job, permit},
    };

    #[test]
    fn each_thing_is_said_once_and_old_commands_never() {
        let (mut said, mut job) = (Said::default(), job());
        assert_eq!(news(&mut said, 2, &job), vec![]);
        fixtures::claim(&mut job).permit = Some(permit(0));
        assert_eq!(news(&mut said, 2, &job), vec![Order::Permit { attempt: 1 }]);
        fixtures::claim(&mut job).permit = Some(permit(1));
        assert_eq!(news(&mut said, 2, &job), vec![], "a new offer is Temporal's business");
        job.status.as_mut().unwrap().control = Some(command(4));
        assert_eq!(news(&mut said, 2, &job), vec![Order::Command { desired: DesiredState::Paused, seq: 4 }]);
        assert_eq!(news(&mut said, 2, &job), vec![]);
        job.status.as_mut().unwrap().control = Some(command(3));
        assert_eq!(news(&mut said, 2, &job), vec![]);
    }

    #[test]
    fn a_new_stream_says_all_of_it() {
        let mut job = job();
        fixtures::claim(&mut job).permit = Some(permit(0));
        job.status.as_mut().unwrap().control = Some(command(0));
        let orders = news(&mut Said::default(), 2, &job);
        assert_eq!(orders, [Order::Permit { attempt: 1 }, Order::Command { desired: DesiredState::Paused, seq: 0 }]);
    }

    #[test]
    fn a_later_epoch_stops_and_an_older_copy_is_silent() {
        let job = job();
        assert!(matches!(news(&mut Said::default(), 1, &job)[..], [Order::Stop { .. }]));
        assert_eq!(news(&mut Said::default(), 3, &job), vec![]);
    }
}
