//! The agent's progress: reads the file that the agent replaces with each report, and measures what it says against the
//! job's budget. [`follow`] only reads; what it finds is judged by [`Reports`], without I/O. Used by [`super::supervisor`].

use std::time::Duration;

use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{ending::FileContents, files::Files, link::Incoming, log::say};
use crate::{
    api::{Budget, BudgetLimit, MAX_PROGRESS_MESSAGE_BYTES, Spent, Usage, whole_millis},
    protocol::runner::{Job, Progress, shorten},
};

/// How often the file is looked at: no report is sent more often.
const LOOK: Duration = Duration::from_secs(5);

/// The file. All of it is optional.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    percent: Option<f64>,
    message: Option<String>,
    usage: Option<ReportedUsage>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ReportedUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cost_micros: Option<u64>,
}

/// Reads a report; else says why it isn't one.
fn parse(text: &[u8]) -> Result<Progress, String> {
    let Report { percent, message, usage } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        return Err(format!("percent is {percent}, and not between 0 and 100"));
    }
    let number = |name: &str, number: Option<u64>| {
        i64::try_from(number.unwrap_or(0)).map_err(|_| format!("usage.{name} is larger than {}", i64::MAX))
    };
    let usage = usage.unwrap_or_default();
    let usage = Usage {
        input_tokens: number("inputTokens", usage.input_tokens)?,
        output_tokens: number("outputTokens", usage.output_tokens)?,
        cost_micros: number("costMicros", usage.cost_micros)?,
    };
    let message = message.map(|mut message| {
        shorten(&mut message, MAX_PROGRESS_MESSAGE_BYTES);
        message
    });
    // In range, so that it is exact but for its fraction.
    Ok(Progress { percent: percent.map(|percent| percent as i32), message, usage })
}

/// Looks at the file again and again, and hands on what is new in it, until nothing listens any more.
pub async fn follow(files: Files, to: mpsc::UnboundedSender<Incoming>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = FileContents::Nothing;
    loop {
        ticks.tick().await;
        let files = files.clone();
        let Ok(found) = spawn_blocking(move || files.read_progress()).await else { return };
        if found == last {
            continue;
        }
        last.clone_from(&found);
        if to.send(Incoming::Progress(found)).is_err() {
            return;
        }
    }
}

/// What the agent of this runner has reported.
pub struct Reports {
    budget: Option<Budget>,
    spent: Spent,
    latest: watch::Sender<Option<Progress>>,
    /// Whether an invalid report was mentioned.
    said: bool,
}

impl Reports {
    /// None yet. The newest is sent to `latest`.
    pub fn new(latest: watch::Sender<Option<Progress>>) -> Self {
        Self { budget: None, spent: Spent::default(), latest, said: false }
    }

    /// With the job's budget, and what earlier runs have used up.
    pub fn begin(&mut self, job: &Job) {
        (self.budget, self.spent) = (job.budget.clone(), job.spent);
    }

    /// Takes what was found in the file. One that is no report is mentioned once.
    pub fn take(&mut self, found: FileContents<Vec<u8>>) {
        let parsed = match found {
            FileContents::Something(text) => parse(&text),
            FileContents::Unreadable(why) => Err(why),
            FileContents::Nothing | FileContents::TooDeep(_) => return,
        };
        match parsed {
            // Totals: an agent can take nothing back.
            Ok(mut new) => {
                new.usage = self.usage().at_least(new.usage);
                self.latest.send_if_modified(|latest| {
                    let differs = latest.as_ref() != Some(&new);
                    *latest = Some(new);
                    differs
                });
            }
            Err(why) if !std::mem::replace(&mut self.said, true) => {
                say(format_args!("the agent's progress file is ignored as long as it is invalid: {why}"));
            }
            Err(_) => {}
        }
    }

    /// The newest report.
    pub fn latest(&self) -> Option<Progress> {
        self.latest.borrow().clone()
    }

    /// What the agent has used since it started, by its reports.
    pub fn usage(&self) -> Usage {
        self.latest.borrow().as_ref().map_or_else(Usage::default, |latest| latest.usage)
    }

    /// Which limit of the budget is exceeded, if this agent has been active for so long.
    pub fn over(&self, active: Duration) -> Option<BudgetLimit> {
        let all = self.spent.plus(Spent { active_millis: whole_millis(active), usage: self.usage() });
        self.budget.as_ref()?.exceeded_by(&all)
    }

    /// Of which limit nothing was left before this run.
    pub fn used_up(&self) -> Option<BudgetLimit> {
        self.budget.as_ref()?.used_up_by(&self.spent)
    }

    /// What is left of active time, if that is limited.
    pub fn active_left(&self) -> Option<Duration> {
        self.budget.as_ref()?.active_left(&self.spent)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn usage(input_tokens: i64, cost_micros: i64) -> Usage {
        Usage { input_tokens, output_tokens: 0, cost_micros }
    }

    fn reports(budget: Value, spent: Spent) -> Reports {
        let budget = serde_json::from_value(budget).unwrap();
        Reports { budget: Some(budget), spent, ..Reports::new(watch::Sender::new(None)) }
    }

    fn written(report: Value) -> FileContents<Vec<u8>> {
        FileContents::Something(report.to_string().into_bytes())
    }

    #[test]
    fn every_part_of_a_report_is_optional() {
        let read = |report: Value| parse(report.to_string().as_bytes()).unwrap();
        assert_eq!(read(json!({})), Progress::default());
        assert_eq!(read(json!({ "percent": 99.9, "more": [1] })).percent, Some(99));
        let whole = json!({ "percent": 0, "message": "reads", "usage": { "inputTokens": 5, "costMicros": 7 } });
        let wanted = Progress { percent: Some(0), message: Some("reads".into()), usage: usage(5, 7) };
        assert_eq!(read(whole), wanted);
        let long = read(json!({ "message": "é".repeat(1000) })).message.unwrap();
        assert!(long.len() <= MAX_PROGRESS_MESSAGE_BYTES && long.ends_with("é…"), "{long}");
    }

    #[test]
    fn what_is_no_report_is_told_apart() {
        for text in ["", "{", "5", "{\"percent\": \"5\"}", "{\"percent\": -1}", "{\"percent\": 100.1}", "{} {}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for number in ["-1", "1.5", "9223372036854775808", "\"1\""] {
            assert!(parse(format!("{{\"usage\": {{\"inputTokens\": {number}}}}}").as_bytes()).is_err(), "{number}");
        }
    }

    #[test]
    fn a_report_that_is_invalid_changes_nothing_and_usage_never_shrinks() {
        let mut reports = reports(json!({}), Spent::default());
        let mut seen = reports.latest.subscribe();
        reports.take(FileContents::Nothing);
        assert!(!seen.has_changed().unwrap() && reports.latest().is_none());
        reports.take(written(json!({ "percent": 40, "usage": { "inputTokens": 9 } })));
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        for invalid in [written(json!([])), FileContents::Unreadable("too long".into())] {
            reports.take(invalid);
            assert!(reports.said && !seen.has_changed().unwrap());
        }
        reports.take(written(json!({ "percent": 40, "usage": { "inputTokens": 3 } })));
        assert!(!seen.has_changed().unwrap(), "the same");
        reports.take(written(json!({ "percent": 30, "usage": { "inputTokens": 3, "costMicros": 1 } })));
        let latest = reports.latest().unwrap();
        assert_eq!((latest.percent, latest.usage), (Some(30), usage(9, 1)));
    }

    #[test]
    fn what_earlier_runs_have_used_counts() {
        let spent = Spent { active_millis: 40_000, usage: usage(90, 0) };
        let mut reports = reports(json!({ "activeTime": "1m", "inputTokens": 100 }), spent);
        assert_eq!((reports.active_left(), reports.used_up()), (Some(Duration::from_secs(20)), None));
        let over = |reports: &Reports, seconds| reports.over(Duration::from_secs(seconds)).map(|limit| limit.field);
        assert_eq!((over(&reports, 19), over(&reports, 20)), (None, Some("activeTime")));
        reports.take(written(json!({ "usage": { "inputTokens": 10 } })));
        assert_eq!(over(&reports, 0), None);
        reports.take(written(json!({ "usage": { "inputTokens": 11 } })));
        assert_eq!(over(&reports, 0), Some("inputTokens"));
        reports.spent.active_millis = 70_000;
        assert_eq!(reports.active_left(), Some(Duration::ZERO));
        assert_eq!(reports.used_up().map(|limit| limit.field), Some("activeTime"));
        reports.budget = None;
        assert_eq!((reports.active_left(), reports.used_up(), over(&reports, 99)), (None, None, None));
    }
}
