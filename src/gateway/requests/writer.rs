//! Background status writes: at most one a second for each run, after a burst of five. Faster updates are merged, and
//! only the newest is written.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    progress,
    updates::{self, Heard},
};
use crate::{
    api::{AgentRun, AgentRunStatus},
    gateway::{
        Gateway,
        server::Refusal,
        sessions::{PendingUpdate, Session},
    },
    protocol::runner::Progress,
};

/// The wait before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);

/// An update to write; it always includes the contact with the runner.
#[derive(Default)]
pub struct News {
    /// The runner's reported state.
    pub heard: Option<Heard>,
    /// Its agent's progress, and when it was received.
    pub progress: Option<(Progress, Time)>,
    /// That it is connected to this gateway.
    pub gateway: bool,
}

fn merge(pending: &mut PendingUpdate, news: News) {
    pending.contact = true;
    pending.gateway |= news.gateway;
    pending.progress = news.progress.or(pending.progress.take());
    let order = |heard: &Heard| heard.generation;
    if news.heard.as_ref().map(order) >= pending.heard.as_ref().map(order) {
        pending.heard = news.heard;
    }
}

/// Whether there is something to write. If not, the task ends, and the next update starts another.
fn has_news(session: &Session) -> bool {
    let mut pending = session.update.lock();
    pending.writing = pending.contact;
    pending.contact
}

/// Takes the pending update.
fn take(session: &Session) -> News {
    let mut pending = session.update.lock();
    pending.contact = false;
    let gateway = std::mem::take(&mut pending.gateway);
    News { heard: pending.heard.take(), progress: pending.progress.take(), gateway }
}

/// Puts back what could not be written, unless something newer has come meanwhile.
fn put_back(session: &Session, news: News) {
    let mut pending = session.update.lock();
    let (heard, progress) = (pending.heard.take(), pending.progress.take());
    let older = News { heard: heard.or(news.heard), progress: progress.or(news.progress), ..news };
    merge(&mut pending, older);
}

impl Gateway {
    /// Writes updates to a run's status as soon as its limit allows.
    pub(super) fn write_later(self: &Arc<Self>, run: &Arc<AgentRun>, session: &Arc<Session>, news: News) {
        let mut pending = session.update.lock();
        merge(&mut pending, news);
        if std::mem::replace(&mut pending.writing, true) {
            return;
        }
        drop(pending);
        let (gateway, run, session) = (self.clone(), run.clone(), session.clone());
        self.background.spawn(async move { gateway.write_news(run, &session).await });
    }

    async fn write_news(&self, mut run: Arc<AgentRun>, session: &Session) {
        while has_news(session) {
            while let Err(wait) = session.may_write() {
                tokio::select! {
                    // A gateway that shuts down drops the last update.
                    () = self.stop.cancelled() => break,
                    () = tokio::time::sleep(wait) => {}
                }
            }
            let news = take(session);
            run = self.runs.get(run.uid()).unwrap_or(run);
            let change = |run: &AgentRun, status: &mut AgentRunStatus| {
                updates::contact(run, status);
                updates::talks_to(status, news.gateway.then_some(self.identity.as_str()));
                if let Some(heard) = &news.heard {
                    updates::confirm(run, status, heard);
                }
                if let Some((said, time)) = &news.progress
                    && progress::is_due(status, said, time)
                {
                    progress::record(status, said, time);
                }
                Ok(())
            };
            match self.runs.modify_status(&run, change).await {
                Ok(run) if run.is_closed() => return drop_news(session),
                Ok(_) => {}
                Err(Refusal::Gone | Refusal::ForeignRun) => return drop_news(session),
                Err(refusal) => {
                    tracing::debug!(
                        reason = refusal.reason(),
                        run = run.name(),
                        "news of a runner are not written yet"
                    );
                    put_back(session, news);
                    tokio::select! {
                        () = self.stop.cancelled() => return drop_news(session),
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }
}

/// Drops the pending update.
fn drop_news(session: &Session) {
    *session.update.lock() = PendingUpdate::default();
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::api::RunnerState;

    fn said(generation: i64) -> News {
        let time = Time(Timestamp::UNIX_EPOCH);
        let heard = Heard { generation, state: RunnerState::Frozen, problem: None, time };
        News { heard: Some(heard), ..News::default() }
    }

    fn reported(second: i64) -> News {
        let time = Time(Timestamp::from_second(second).unwrap());
        News { progress: Some((Progress::default(), time)), ..News::default() }
    }

    fn note(session: &Session, news: News) {
        merge(&mut session.update.lock(), news);
    }

    fn generation(news: &News) -> Option<i64> {
        news.heard.as_ref().map(|h| h.generation)
    }

    #[test]
    fn only_the_newest_is_written() {
        let session = Session::default();
        assert!(!has_news(&session));
        note(&session, said(1));
        note(&session, said(3));
        note(&session, said(2));
        note(&session, News { gateway: true, ..News::default() });
        assert!(has_news(&session) && session.update.lock().writing);
        for second in [1, 2] {
            note(&session, reported(second));
        }
        let news = take(&session);
        assert_eq!((generation(&news), news.gateway), (Some(3), true));
        assert_eq!(news.progress.map(|(_, time)| time.0.as_second()), Some(2));
        assert!(!has_news(&session) && !session.update.lock().writing);
    }

    #[test]
    fn what_failed_is_tried_again_unless_something_newer_came() {
        let session = Session::default();
        put_back(&session, said(1));
        assert_eq!(generation(&take(&session)), Some(1));
        note(&session, said(2));
        note(&session, reported(2));
        put_back(&session, said(1));
        put_back(&session, reported(1));
        let news = take(&session);
        assert_eq!(generation(&news), Some(2));
        assert_eq!(news.progress.map(|(_, time)| time.0.as_second()), Some(2));
    }
}
