//! Which findings last. A healthy cluster under load is full of states that would be wrong if they stayed: a run whose
//! job was deleted a moment ago, a run that was closed and whose pod is about to be deleted.
//!
//! The rule: a finding is reported if two live reads, at least the grace period apart, show the same finding of the same
//! objects. What differs between them begins anew. The states in question are ones that nothing leads back to (an
//! object that is gone, a phase or a run that is final), so what is the same twice was the same in between.

use std::time::Duration;

use super::{Finding, Suspect};

/// How many times longer garbage collection may take than koco: it is one loop for the whole cluster, limited in its
/// requests a second.
const GARBAGE: u32 = 5;
/// How often a suspect may differ from the look before. One that never comes to rest doesn't fit either.
const CHANGES: u32 = 10;

/// How often a suspect is looked at in a grace period, at the most: what has passed needn't be waited for.
const LOOKS: u32 = 4;

/// What a look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It fits.
    Fits,
    /// It doesn't fit so far: look again after this time.
    Again(Duration),
    /// It doesn't fit.
    Finding(Finding),
}

/// A suspect, and what was seen of it so far.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// The object.
    pub suspect: Suspect,
    seen: Option<(Finding, Duration)>,
    changes: u32,
}

impl Suspicion {
    /// One that was not looked at yet.
    pub fn of(suspect: Suspect) -> Self {
        Self { suspect, seen: None, changes: 0 }
    }

    /// Takes what a live read shows. `at` is a time that only grows.
    pub fn look(&mut self, finding: Option<Finding>, at: Duration, grace: Duration) -> Look {
        let Some(finding) = finding else { return Look::Fits };
        let needed = if finding.is_garbage { grace * GARBAGE } else { grace };
        match &self.seen {
            Some((before, since)) if *before == finding => {
                let lasted = at.saturating_sub(*since);
                if lasted >= needed { Look::Finding(finding) } else { again(needed - lasted, grace) }
            }
            Some(_) if self.changes >= CHANGES => Look::Finding(finding),
            before => {
                self.changes += u32::from(before.is_some());
                self.seen = Some((finding, at));
                again(needed, grace)
            }
        }
    }
}

fn again(left: Duration, grace: Duration) -> Look {
    Look::Again(left.min(grace / LOOKS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Kind;

    const GRACE: Duration = Duration::from_secs(10);

    fn suspicion() -> Suspicion {
        Suspicion::of(Suspect::Job { namespace: "n".into(), name: "j".into() })
    }

    fn finding(message: &str) -> Option<Finding> {
        Some(Finding::new(Kind::TwoLiveRuns, message.into()))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_look_reports_nothing() {
        let mut s = suspicion();
        assert_eq!(s.look(finding("a"), at(100), GRACE), Look::Again(GRACE / 4));
        assert_eq!(s.look(finding("a"), at(109), GRACE), Look::Again(at(1)));
        assert_eq!(s.look(finding("a"), at(110), GRACE), Look::Finding(finding("a").unwrap()));
    }

    #[test]
    fn what_has_passed_fits() {
        let mut s = suspicion();
        s.look(finding("a"), at(0), GRACE);
        assert_eq!(s.look(None, at(50), GRACE), Look::Fits);
    }

    #[test]
    fn what_differs_begins_anew_though_not_for_ever() {
        let mut s = suspicion();
        s.look(finding("a"), at(0), GRACE);
        assert_eq!(s.look(finding("b"), at(50), GRACE), Look::Again(GRACE / 4));
        assert_eq!(s.look(finding("b"), at(60), GRACE), Look::Finding(finding("b").unwrap()));
        let mut s = suspicion();
        let looks = (0..30).map(|n| s.look(finding(&n.to_string()), at(n * 10), GRACE));
        assert_eq!(looks.filter(|l| matches!(l, Look::Finding(_))).count(), 19);
    }

    #[test]
    fn garbage_collection_has_more_time() {
        let mut s = suspicion();
        let garbage = finding("a").map(|f| Finding { is_garbage: true, ..f });
        assert_eq!(s.look(garbage.clone(), at(0), GRACE), Look::Again(GRACE / 4));
        assert_eq!(s.look(garbage.clone(), at(49), GRACE), Look::Again(at(1)));
        assert_eq!(s.look(garbage.clone(), at(50), GRACE), Look::Finding(garbage.unwrap()));
    }
}
