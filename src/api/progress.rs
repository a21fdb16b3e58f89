//! What an agent reports of its progress and usage, what the agents of a job have used up, and the budget that limits it.
//! Active time is koco's own; tokens and cost are what agents report of themselves.

use std::{fmt, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Seconds, millis, schema, whole_millis};

/// The longest message of an agent's progress, in bytes; the rest is cut.
pub const MAX_PROGRESS_MESSAGE_BYTES: usize = 256;

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What agents report to have used. Nothing checks it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Tokens sent to models.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub input_tokens: i64,
    /// Tokens that models have answered with.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub output_tokens: i64,
    /// What it cost, in millionths of a currency's unit.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub cost_micros: i64,
}

impl Usage {
    /// Whether it is nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn with(self, other: Self, of: impl Fn(i64, i64) -> i64) -> Self {
        Self {
            input_tokens: of(self.input_tokens, other.input_tokens),
            output_tokens: of(self.output_tokens, other.output_tokens),
            cost_micros: of(self.cost_micros, other.cost_micros),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        self.with(other, i64::saturating_add)
    }

    /// What there is of it, as people read it.
    pub fn words(self) -> Vec<String> {
        let count = |n: i64, what: &str| (n > 0).then(|| format!("{n} {what}"));
        // A cost of millionths is exact in a double up to nine billion.
        let cost = (self.cost_micros > 0).then(|| format!("a cost of {}", self.cost_micros as f64 / 1e6));
        let all = [count(self.input_tokens, "input tokens"), count(self.output_tokens, "output tokens"), cost];
        all.into_iter().flatten().collect()
    }

    /// Of each the larger one: totals never shrink. Less than none is none.
    pub fn at_least(self, other: Self) -> Self {
        self.with(other, |a, b| a.max(b).max(0))
    }
}

/// How far an agent is, as it reports itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentProgress {
    /// How much of its work is done, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was used so far, by agents' own reports.
    #[serde(default, skip_serializing_if = "Usage::is_empty")]
    pub usage: Usage,
    /// When a gateway received it.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

impl AgentProgress {
    /// What was used by a status's report, if there is one.
    pub fn usage_of(progress: Option<&Self>) -> Usage {
        progress.map_or_else(Usage::default, |progress| progress.usage)
    }
}

/// What the agents of a job have used up in runs that have ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Spent {
    /// How long they were active, in milliseconds, without pauses: what `budget.activeTime` counts.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub active_millis: i64,
    /// What they reported to have used.
    #[serde(skip_serializing_if = "Usage::is_empty")]
    pub usage: Usage,
}

impl Spent {
    /// Whether it is nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        let active_millis = self.active_millis.saturating_add(other.active_millis);
        Self { active_millis, usage: self.usage.plus(other.usage) }
    }

    /// Of each the larger one.
    pub fn at_least(self, other: Self) -> Self {
        let active_millis = self.active_millis.max(other.active_millis).max(0);
        Self { active_millis, usage: self.usage.at_least(other.usage) }
    }
}

/// How much the agents of a job may use, over all attempts. What isn't set is not limited.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// How long agents may be active in all, such as `8h`, by koco's own record. Time spent paused does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("spec.budget.activeTime must be more than 0s"))]
    pub active_time: Option<Seconds>,
    /// How many tokens they may send to models, by their own reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub input_tokens: Option<i64>,
    /// How many tokens models may answer with, by their own reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output_tokens: Option<i64>,
    /// What they may cost, in millionths of a currency's unit, by their own reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cost_micros: Option<i64>,
}

/// A limit of a [`Budget`], and how much was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimit {
    /// The name of its field.
    pub field: &'static str,
    /// The most that may be used; of active time in milliseconds.
    pub limit: i64,
    /// How much was used.
    pub used: i64,
}

impl BudgetLimit {
    fn is_of_time(&self) -> bool {
        self.field == ACTIVE_TIME
    }
}

const ACTIVE_TIME: &str = "activeTime";

impl fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, limit, used } = self;
        if self.is_of_time() {
            // A limit of milliseconds is exact in a double for 285,000 years.
            return write!(f, "budget.{field} is {} s", *limit as f64 / 1000.0);
        }
        write!(f, "budget.{field} is {limit}, and the job's agents have reported {used}")
    }
}

impl Budget {
    /// What is left of `activeTime`, if it is set, for agents that have used this much.
    pub fn active_left(&self, spent: &Spent) -> Option<Duration> {
        Some(self.active_time?.get().saturating_sub(millis(spent.active_millis)))
    }

    /// What `activeTime` is in milliseconds, if it is set.
    fn active_millis(&self) -> Option<i64> {
        self.active_time.map(|time| whole_millis(time.get()))
    }

    fn limits(&self, spent: &Spent) -> impl Iterator<Item = BudgetLimit> {
        let usage = spent.usage;
        let limits = [
            (ACTIVE_TIME, self.active_millis(), spent.active_millis),
            ("inputTokens", self.input_tokens, usage.input_tokens),
            ("outputTokens", self.output_tokens, usage.output_tokens),
            ("costMicros", self.cost_micros, usage.cost_micros),
        ];
        limits.into_iter().filter_map(|(field, limit, used)| Some(BudgetLimit { field, limit: limit?, used }))
    }

    /// The first limit that is exceeded by a job's agents that have used this much in all, a running one's part included.
    pub fn exceeded_by(&self, spent: &Spent) -> Option<BudgetLimit> {
        // Time passes by itself: an agent that is there has it exceeded in a moment.
        self.limits(spent).find(|limit| limit.used > limit.limit || (limit.is_of_time() && limit.used == limit.limit))
    }

    /// The first limit of which nothing is left, so that no agent need be started.
    pub fn used_up_by(&self, spent: &Spent) -> Option<BudgetLimit> {
        self.limits(spent).find(|limit| limit.used >= limit.limit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn usage(input_tokens: i64, output_tokens: i64, cost_micros: i64) -> Usage {
        Usage { input_tokens, output_tokens, cost_micros }
    }

    fn spent(active_millis: i64, usage: Usage) -> Spent {
        Spent { active_millis, usage }
    }

    #[test]
    fn usage_adds_up_and_totals_never_shrink() {
        let (a, b) = (usage(1, 20, i64::MAX), usage(10, 2, 1));
        assert_eq!(a.plus(b), usage(11, 22, i64::MAX));
        assert_eq!(a.at_least(b), usage(10, 20, i64::MAX));
        assert_eq!(usage(-1, 0, 5).at_least(Usage::default()), usage(0, 0, 5));
        assert_eq!(spent(5, a).plus(spent(7, b)), spent(12, a.plus(b)));
        assert_eq!(spent(5, a).at_least(spent(7, b)), spent(7, a.at_least(b)));
        assert!(Spent::default().is_empty() && !spent(1, Usage::default()).is_empty());
        assert_eq!(json!(spent(0, usage(1, 0, 0))), json!({ "usage": { "inputTokens": 1 } }));
    }

    #[test]
    fn a_budget_is_exceeded_by_more_and_used_up_by_as_much() {
        let budget: Budget = serde_json::from_value(
            json!({ "activeTime": "1m", "inputTokens": 10, "outputTokens": 20, "costMicros": 30 }),
        )
        .unwrap();
        let exceeded = |spent: Spent| budget.exceeded_by(&spent).map(|limit| limit.field);
        let used_up = |spent: Spent| budget.used_up_by(&spent).map(|limit| limit.field);
        assert_eq!(exceeded(spent(59_999, usage(10, 20, 30))), None);
        assert_eq!(used_up(spent(59_999, usage(9, 19, 29))), None);
        for (over, field) in
            [(usage(11, 0, 0), "inputTokens"), (usage(0, 21, 0), "outputTokens"), (usage(10, 20, 31), "costMicros")]
        {
            assert_eq!(exceeded(spent(0, over)), Some(field));
        }
        assert_eq!(used_up(spent(0, usage(0, 20, 0))), Some("outputTokens"));
        assert_eq!(exceeded(spent(60_000, Usage::default())), Some("activeTime"));
        assert_eq!(Budget::default().used_up_by(&spent(i64::MAX, usage(i64::MAX, i64::MAX, i64::MAX))), None);
    }

    #[test]
    fn a_limit_says_what_it_is_and_what_was_used() {
        let budget = Budget { active_time: Some("1500ms".parse().unwrap()), ..Budget::default() };
        let over = budget.exceeded_by(&spent(2_000, Usage::default())).unwrap();
        assert_eq!(over.to_string(), "budget.activeTime is 1.5 s");
        let budget = Budget { input_tokens: Some(10), ..Budget::default() };
        let over = budget.exceeded_by(&spent(0, usage(12, 0, 0))).unwrap();
        assert_eq!(over.to_string(), "budget.inputTokens is 10, and the job's agents have reported 12");
    }
}
