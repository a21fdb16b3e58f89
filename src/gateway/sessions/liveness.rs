//! Detects unresponsive runners: a gateway that was listening all the time records `status.unresponsiveSince`, and the
//! next contact removes it. A runner whose container runs counts as lost only by this: a time-out while no gateway was
//! reachable proves nothing. Run by [`crate::gateway::run`].
//!
//! In Temporal mode a runner is checked once the worker, after a heartbeat time-out, has bound it anew; any gateway may
//! do it, because an acknowledgement through any of them is in the status. In Direct mode there is no new binding, so
//! only the gateway in `status.gateway` does it, because the runner is connected to no other; once that one is gone, by
//! [`super::peers`], any other does it that hears nothing of the runner for twice as long.
//!
//! A gateway that hears less than half of the runners that it should hear is rather cut off itself: from five runners on
//! it writes `unresponsiveAmongMany` beside it, and then only the loss of a runner's node is evidence. It writes the
//! same beyond a number of verdicts a minute. It listens anew once it hears most of them again.
//!
//! After the process itself was suspended, all runners would look unresponsive. So a ticker detects such gaps, and no
//! runner is checked before it has ticked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    api::{AgentRun, AgentRunStatus, ExecutionMode},
    gateway::Gateway,
    platform::{clock, http::limits::TokenBucket},
    runs,
};

/// How often runners are checked.
const LOOK: Duration = Duration::from_secs(1);
/// From how many runners on a gateway may be cut off rather than they.
const MANY: usize = 5;
/// How many runners it may call lost by their silence alone: at once, and a second.
const VERDICTS: (u32, f64) = (20, 20.0 / 60.0);
/// The ticker's interval.
const TICK: Duration = Duration::from_millis(500);

/// A runner that this gateway has to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    /// The longest time without contact.
    limit: Duration,
    /// The newest binding that it has acknowledged, if a newer one is waiting.
    acknowledged: Option<i32>,
}

/// The runner of a run, if this gateway has to check it: `None` if that is another's task, it has no grant yet, has
/// ended, or is deemed unresponsive already.
fn listened_for(run: &AgentRun, gateway: &str, is_gone: impl Fn(&str) -> bool) -> Option<Listening> {
    let undecided = |s: &&AgentRunStatus| s.unresponsive_since.is_none() || s.unresponsive_among_many;
    let status = run.status.as_ref().filter(undecided)?;
    let heartbeat = run.may_run().then(|| run.spec.identity.heartbeat.get())?;
    match run.spec.identity.execution_mode {
        ExecutionMode::Direct => {
            let named = status.gateway.as_deref()?;
            let limit = match named == gateway {
                true => heartbeat,
                false if is_gone(named) => heartbeat * 2,
                false => return None,
            };
            Some(Listening { limit, acknowledged: None })
        }
        ExecutionMode::Temporal => {
            let acknowledged = Some(run.acknowledged_binding());
            // Two missed heartbeats, and early enough for the worker, which looks one time-out after its binding.
            run.is_to_acknowledge().then_some(Listening { limit: heartbeat / 4 * 3, acknowledged })
        }
    }
}

/// Whether a gateway is rather cut off itself than all the runners that it does not hear. One for each runner that it
/// should hear: whether it does.
fn is_cut_off(heard: impl Iterator<Item = bool>) -> bool {
    let (all, heard) = heard.fold((0, 0), |(all, heard), is| (all + 1, heard + usize::from(is)));
    all >= MANY && heard * 2 < all
}

/// Whether a gateway hears a runner, if it should: `last_contact` is the time since its last contact with this gateway.
fn is_heard(run: &AgentRun, listened_for: bool, gateway: &str, last_contact: Option<Duration>) -> Option<bool> {
    let heartbeat = run.may_run().then(|| run.spec.identity.heartbeat.get())?;
    let within = |limit: Duration| last_contact.is_some_and(|since| since <= limit);
    // One and a half intervals between heartbeats.
    let heard = within(heartbeat / 2);
    let status = run.status.as_ref()?;
    let expected = if run.is_temporal() {
        // Until Temporal and the worker have had their time to bind it anew; it may talk to another gateway meanwhile.
        within(heartbeat * 4) || run.is_to_acknowledge()
    } else {
        listened_for || status.gateway.as_deref() == Some(gateway)
    };
    (heard || expected).then_some(heard)
}

/// Whether a silent runner is one of many, so that its silence alone is no evidence. `None` if that is on record.
fn verdict(run: &AgentRun, cut_off: bool, verdicts: &mut TokenBucket, now: Instant) -> Option<bool> {
    let among_many = cut_off || verdicts.take(now).is_err();
    let noted = run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_some());
    (!(noted && among_many)).then_some(among_many)
}

impl Gateway {
    /// Checks runners until the gateway ends, and drops the sessions of closed runs.
    pub(in crate::gateway) async fn watch_liveness(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.tick() => {}
            () = self.look() => {}
            () = self.peers.keep() => {}
        }
    }

    async fn tick(&self) {
        loop {
            self.sessions.tick(Instant::now());
            tokio::time::sleep(TICK).await;
        }
    }

    async fn look(&self) {
        let (mut verdicts, mut was_cut_off) = (TokenBucket::new(VERDICTS.0, VERDICTS.1, Instant::now()), false);
        loop {
            tokio::time::sleep(LOOK).await;
            let runs = self.runs.all();
            let cut_off = is_cut_off(runs.iter().filter_map(|run| {
                let listened = self.listened_for(run).is_some();
                is_heard(run, listened, &self.identity, self.sessions.last_contact(run.uid()))
            }));
            if was_cut_off && !cut_off {
                // The others are about to be heard again, too.
                self.sessions.reset_liveness();
            } else if cut_off && !was_cut_off {
                tracing::warn!("most runners are not heard: none is called lost while its node is ready");
            }
            was_cut_off = cut_off;
            for run in runs {
                // A runner that this process had no contact with yet gets the full time from now on.
                let Some(listening) = self.listened_for(&run) else { continue };
                let Some(silence) = self.silence_of(run.uid(), listening) else { continue };
                if let Some(among_many) = verdict(&run, cut_off, &mut verdicts, Instant::now()) {
                    self.record_unresponsive(&run, listening, silence, among_many).await;
                }
            }
            self.sessions.prune(|uid| self.runs.get(uid).is_some());
        }
    }

    fn listened_for(&self, run: &AgentRun) -> Option<Listening> {
        listened_for(run, &self.identity, |name| self.peers.is_gone(name))
    }

    /// The time without contact, if that is too long.
    fn silence_of(&self, uid: &str, listening: Listening) -> Option<Duration> {
        let unheard = self.sessions.time_since_contact(uid);
        let unacknowledged = |binding| self.sessions.of(uid).time_unacknowledged(binding);
        let silence = listening.acknowledged.map_or(unheard, |binding| unheard.min(unacknowledged(binding)));
        (silence > listening.limit && self.sessions.is_awake(Instant::now())).then_some(silence)
    }

    async fn record_unresponsive(&self, run: &AgentRun, listening: Listening, silence: Duration, among_many: bool) {
        let last_contact = clock::now().checked_sub(silence).unwrap_or(Timestamp::UNIX_EPOCH);
        let note = |run: &AgentRun, status: &mut AgentRunStatus| {
            let still = self.listened_for(run) == Some(listening);
            if still && self.silence_of(run.uid(), listening).is_some() {
                status.unresponsive_since.get_or_insert(Time(last_contact));
                status.unresponsive_among_many = among_many;
            }
            Ok(())
        };
        runs::logged(run).in_scope(|| tracing::warn!(?silence, among_many, "a runner is unresponsive"));
        // Retried in a second.
        if let Err(refusal) = self.runs.modify_status(run, note).await {
            tracing::debug!(reason = refusal.reason(), "unresponsiveSince is not written yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures::{self, grant, termination};

    fn running(mut run: AgentRun, binding: i32) -> AgentRun {
        run.spec.grant = Some(grant(binding));
        run
    }

    fn listened(run: &AgentRun, gateway: &str) -> Option<Listening> {
        listened_for(run, gateway, |name| name == "gone")
    }

    #[test]
    fn any_gateway_listens_for_the_runner_of_one_that_is_gone_and_for_longer() {
        let mut run = running(fixtures::run(), 0);
        run.status.as_mut().unwrap().gateway = Some("gone".into());
        assert_eq!(listened(&run, "h"), Some(Listening { limit: Duration::from_secs(240), acknowledged: None }));
        run.status.as_mut().unwrap().gateway = Some("there".into());
        assert_eq!(listened(&run, "h"), None);
    }

    #[test]
    fn a_gateway_that_hears_less_than_half_is_cut_off() {
        let cut_off = |heard: usize, all: usize| is_cut_off((0..all).map(|n| n < heard));
        assert!(!cut_off(0, 0) && !cut_off(0, 4) && !cut_off(3, 5) && !cut_off(5, 10));
        assert!(cut_off(0, 5) && cut_off(2, 5) && cut_off(4, 10));
    }

    #[test]
    fn only_so_many_runners_are_called_lost_in_a_minute_and_the_others_later() {
        let start = Instant::now();
        let mut verdicts = TokenBucket::new(VERDICTS.0, VERDICTS.1, start);
        let mut silent = vec![running(fixtures::run(), 0); 65];
        assert_eq!(verdict(&silent[0], true, &mut verdicts, start), Some(true), "a gateway that is cut off calls none");
        // As it looks: each second at all that are not called lost yet.
        let mut lost = Vec::new();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            silent.retain_mut(|run| match verdict(run, false, &mut verdicts, now) {
                Some(false) => {
                    lost.push(second);
                    false
                }
                Some(true) => {
                    let status = run.status.as_mut().unwrap();
                    assert!(!status.unresponsive_among_many, "written once");
                    (status.unresponsive_since, status.unresponsive_among_many) =
                        (Some(Time(Timestamp::UNIX_EPOCH)), true);
                    true
                }
                None => true,
            });
        }
        let until = |limit| lost.iter().filter(|second| **second < limit).count();
        assert_eq!([until(1), until(61), until(121), until(200)], [20, 40, 60, 65]);
    }

    #[test]
    fn a_gateway_should_hear_those_that_name_it_or_were_heard_or_have_to_answer() {
        let (second, direct) = (Duration::from_secs, running(fixtures::run(), 0));
        let heard = |run: &AgentRun, contact: Option<u64>| is_heard(run, false, "g", contact.map(second));
        assert_eq!(heard(&direct, Some(60)), Some(true));
        assert_eq!(heard(&direct, Some(61)), Some(false));
        assert_eq!(heard(&direct, None), Some(false));
        assert_eq!(is_heard(&direct, false, "h", None), None);
        assert_eq!(is_heard(&direct, true, "h", None), Some(false));
        assert_eq!(heard(&fixtures::run(), None), None, "not granted");
        let mut noted = direct;
        noted.status.as_mut().unwrap().unresponsive_since = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(heard(&noted, None), Some(false), "still");
        let (first, bound) = (running(fixtures::temporal_run(), 0), running(fixtures::temporal_run(), 3));
        assert_eq!([heard(&first, None), heard(&first, Some(61)), heard(&first, Some(481))], [None, Some(false), None]);
        assert_eq!([heard(&bound, None), heard(&bound, Some(5))], [Some(false), Some(true)]);
    }

    #[test]
    fn only_the_named_gateway_listens_for_a_running_direct_runner() {
        let run = running(fixtures::run(), 0);
        let listening = Listening { limit: Duration::from_secs(120), acknowledged: None };
        assert_eq!(listened(&run, "g"), Some(listening));
        assert_eq!(listened(&run, "h"), None);
        assert_eq!(listened(&fixtures::run(), "g"), None, "not granted");
        let mut unready = run.clone();
        unready.status.as_mut().unwrap().ready_time = None;
        assert_eq!(listened(&unready, "g"), None);
        let mut closed = run.clone();
        closed.status.as_mut().unwrap().termination = Some(termination());
        assert_eq!(listened(&closed, "g"), None);
        let mut noted = run;
        noted.status.as_mut().unwrap().unresponsive_since = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(listened(&noted, "g"), None);
        noted.status.as_mut().unwrap().unresponsive_among_many = true;
        assert_eq!(listened(&noted, "g"), Some(listening), "not decided yet");
    }

    #[test]
    fn every_gateway_listens_for_an_answer_to_a_new_binding_and_for_nothing_else() {
        let first = running(fixtures::temporal_run(), 0);
        assert_eq!(listened(&first, "h"), None, "heartbeats go to Temporal, which says when they are missing");
        let mut bound = running(fixtures::temporal_run(), 3);
        let listening = Listening { limit: Duration::from_secs(90), acknowledged: Some(-1) };
        assert_eq!(listened(&bound, "h"), Some(listening));
        bound.status.as_mut().unwrap().acknowledged.as_mut().unwrap().binding = 3;
        assert_eq!(listened(&bound, "h"), None);
    }
}
