//! Which gateways are there: each renews its mark in one Lease, and reads the others'. A gateway is gone once its mark
//! has not changed for a while, by the reader's own clock. Used by [`super::liveness`], and for limits that all gateways
//! share; nothing is gone for a gateway that can't read the Lease, or was suspended.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;

use crate::platform::clock;

/// The Lease in the operator's namespace, and the annotation with the gateways' marks.
const LEASE: &str = "koco-gateways";
const MARKS: &str = "kodosumi.io/gateways";
/// How often a gateway renews its mark.
const RENEW: Duration = Duration::from_secs(10);
/// The longest time between two reads: after a longer one the others are observed anew.
const GAP: Duration = Duration::from_secs(30);
/// A gateway whose mark has not changed for this long is gone.
const GONE: Duration = Duration::from_secs(60);
/// The mark of one that is gone is removed after this.
const FORGET: Duration = Duration::from_secs(3600);

/// What was read of the marks, and when.
#[derive(Default)]
struct Board {
    /// Each gateway's mark, and since when it is the same.
    seen: HashMap<String, (String, Instant)>,
    /// The first of the reads without a gap, and the last.
    reads: Option<(Instant, Instant)>,
}

impl Board {
    fn read(&mut self, marks: &BTreeMap<String, String>, now: Instant) {
        let since = match self.reads {
            Some((since, last)) if now.saturating_duration_since(last) <= GAP => since,
            _ => {
                self.seen.clear();
                now
            }
        };
        self.reads = Some((since, now));
        self.seen.retain(|name, _| marks.contains_key(name));
        for (name, mark) in marks {
            if self.seen.get(name).is_none_or(|(known, _)| known != mark) {
                self.seen.insert(name.clone(), (mark.clone(), now));
            }
        }
    }

    fn unchanged_for(&self, name: &str, limit: Duration, now: Instant) -> bool {
        let Some((since, last)) = self.reads else { return false };
        let passed = |at: Instant| now.saturating_duration_since(at);
        passed(last) <= GAP
            && passed(since) >= limit
            && self.seen.get(name).is_none_or(|(_, since)| passed(*since) >= limit)
    }

    /// How many others there are beside this gateway.
    fn others(&self, identity: &str, now: Instant) -> usize {
        self.seen.keys().filter(|name| *name != identity && !self.unchanged_for(name, GONE, now)).count()
    }
}

/// The other gateways.
pub struct Peers {
    api: Api<Lease>,
    identity: String,
    board: Mutex<Board>,
}

impl Peers {
    /// As the gateway of this name.
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.into(), board: Mutex::default() }
    }

    /// Whether a gateway of this name is gone.
    pub fn is_gone(&self, name: &str) -> bool {
        self.board.lock().unchanged_for(name, GONE, Instant::now())
    }

    /// How many gateways there are, with this one, as far as it knows.
    pub fn count(&self) -> u32 {
        let others = self.board.lock().others(&self.identity, Instant::now());
        u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Renews this gateway's mark and reads the others', for ever.
    pub async fn keep(&self) {
        loop {
            // A conflict means that another gateway was faster; the next round comes soon.
            if let Err(error) = self.round().await {
                tracing::debug!(%error, "the gateways' lease");
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    async fn round(&self) -> Result<(), kube::Error> {
        let found = self.api.get_opt(LEASE).await?;
        let exists = found.is_some();
        let mut lease = found.unwrap_or_default();
        lease.metadata.name = Some(LEASE.into());
        let marks = lease.metadata.annotations.get_or_insert_default();
        let text = marks.get(MARKS).map_or("{}", String::as_str);
        let mut all: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
        {
            let (mut board, now) = (self.board.lock(), Instant::now());
            board.read(&all, now);
            all.retain(|name, _| !board.unchanged_for(name, FORGET, now));
        }
        all.insert(self.identity.clone(), clock::now().to_string());
        marks.insert(MARKS.into(), serde_json::to_string(&all).unwrap_or_default());
        let params = PostParams::default();
        if exists {
            self.api.replace(LEASE, &params, &lease).await.map(drop)
        } else {
            self.api.create(&params, &lease).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(of: &[(&str, u64)]) -> BTreeMap<String, String> {
        of.iter().map(|(name, mark)| (name.to_string(), mark.to_string())).collect()
    }

    #[test]
    fn a_gateway_is_gone_when_its_mark_stands_still_and_only_for_one_that_looked_all_the_time() {
        let (mut board, start) = (Board::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let gone = |board: &Board, name, seconds| board.unchanged_for(name, GONE, at(seconds));
        assert!(!gone(&board, "a", 1000), "nothing was read");
        for second in (0..=60).step_by(10) {
            board.read(&marks(&[("a", 1), ("b", second)]), at(second));
            assert!(second >= 60 || !gone(&board, "a", second), "{second}");
        }
        assert!(gone(&board, "a", 60) && gone(&board, "never seen", 60) && !gone(&board, "b", 60));
        assert!(!gone(&board, "a", 100), "the last read is old");
        // It could not read for a while, or was suspended.
        board.read(&marks(&[("a", 1), ("b", 60)]), at(4000));
        assert!(!gone(&board, "a", 4000) && !gone(&board, "never seen", 4000));
        board.read(&marks(&[("a", 2)]), at(4030));
        board.read(&marks(&[("a", 2)]), at(4060));
        assert!(!gone(&board, "a", 4060) && gone(&board, "b", 4060));
        assert_eq!([board.others("a", at(4060)), board.others("me", at(4060))], [0, 1]);
        board.read(&marks(&[("a", 3), ("b", 1), ("c", 1)]), at(4070));
        assert_eq!([board.others("a", at(4070)), board.others("me", at(4070))], [2, 3]);
    }
}
