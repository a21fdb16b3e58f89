//! Tells those who wait for more of an execution that there is some. What this process appends it tells at once; of what
//! other processes append, and of ends, it learns by one question to the database for all that are waited for, and asks
//! none if there are none. Used by [`super::http`].

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::database::{Database, Fid, Head};

/// How often the database is asked.
const ASK: Duration = Duration::from_millis(200);

/// What is known of an execution that is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How far it has come.
    pub head: Head,
    /// It was deleted from the archive.
    pub gone: bool,
    /// Counts what this process has appended.
    appended: u64,
}

/// The executions that are waited for.
#[derive(Default)]
pub struct Live {
    watched: Mutex<HashMap<Fid, watch::Sender<Seen>>>,
    first: Notify,
}

impl Live {
    /// Every change of an execution from now on.
    pub fn follow(&self, fid: Fid, head: Head) -> watch::Receiver<Seen> {
        let seen = Seen { head, ..Seen::default() };
        let receiver = self.watched.lock().entry(fid).or_insert_with(|| watch::channel(seen).0).subscribe();
        self.first.notify_one();
        receiver
    }

    /// This process has appended to an execution.
    pub fn appended(&self, fid: Fid) {
        if let Some(sender) = self.watched.lock().get(&fid) {
            sender.send_modify(|seen| seen.appended += 1);
        }
    }

    /// Asks the database until `stop`.
    pub async fn ask(&self, database: &Database, stop: &CancellationToken) {
        loop {
            let fids = self.waited_for();
            if fids.is_empty() {
                tokio::select! { () = stop.cancelled() => return, () = self.first.notified() => {} }
                continue;
            }
            match database.heads(&fids).await {
                Ok(heads) => self.tell(&fids, &heads.into_iter().collect()),
                Err(error) => tracing::debug!(%error, reason = error.reason(), "no news from the database"),
            }
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(ASK) => {} }
        }
    }

    /// Those that are still waited for; the others are forgotten.
    fn waited_for(&self) -> Vec<Fid> {
        let mut watched = self.watched.lock();
        watched.retain(|_, sender| sender.receiver_count() > 0);
        watched.keys().copied().collect()
    }

    fn tell(&self, fids: &[Fid], heads: &HashMap<Fid, Head>) {
        let watched = self.watched.lock();
        for fid in fids {
            let Some(sender) = watched.get(fid) else { continue };
            sender.send_if_modified(|seen| {
                let old = *seen;
                match heads.get(fid) {
                    Some(head) => (seen.head, seen.gone) = (*head, false),
                    None => seen.gone = true,
                }
                *seen != old
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fid(n: u8) -> Fid {
        Fid([n; 12])
    }

    #[tokio::test]
    async fn only_news_wakes_and_only_those_who_wait_for_it() {
        let live = Live::default();
        let head = |last_row| Head { last_row, ended: None };
        let (mut one, mut two) = (live.follow(fid(1), head(3)), live.follow(fid(2), head(0)));
        let mut news = |heads: &[(u8, i64)]| {
            let heads = heads.iter().map(|(n, row)| (fid(*n), head(*row))).collect();
            live.tell(&live.waited_for(), &heads);
            let woken = (one.has_changed().unwrap(), two.has_changed().unwrap());
            (woken, *one.borrow_and_update(), *two.borrow_and_update())
        };
        assert_eq!(news(&[(1, 3), (2, 0)]).0, (false, false), "nothing new");
        assert_eq!(news(&[(1, 4), (2, 0)]).0, (true, false));
        let (woken, _, seen) = news(&[(1, 4)]);
        assert!(woken == (false, true) && seen.gone);
        live.appended(fid(1));
        assert_eq!(news(&[(1, 4)]).0, (true, false));
    }

    #[tokio::test]
    async fn what_is_waited_for_no_longer_is_forgotten() {
        let live = Live::default();
        let (one, two) = (live.follow(fid(1), Head::default()), live.follow(fid(1), Head::default()));
        drop(one);
        assert_eq!(live.waited_for(), [fid(1)]);
        drop(two);
        assert_eq!(live.waited_for(), []);
        live.appended(fid(1));
    }
}
