//! `status`: a job's status, once or until its end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{WatchStreamExt, watcher};
use terminal_size::{Height, Width};

use super::{
    connect::{Session, job_name},
    events::{self, Happened},
    render,
    text::{plain, say},
    watch::{self, RunChange},
};
use crate::api::{AgentJob, AgentRun};

/// How long to wait for late events after the end: they are written apart from the status.
const AFTERGLOW: Duration = Duration::from_millis(700);

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    #[arg(value_parser = job_name)]
    name: String,
    /// Show it as it changes, until its end
    #[arg(short, long)]
    pub watch: bool,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.watch {
        return follow(session, &arguments.name).await;
    }
    let job = session.job(&arguments.name).await?;
    // Users who may read jobs may lack the right to read these.
    let or_none = |what: &str, e| say(format_args!("warning: no {what}: {:#}", session.explain(e, &arguments.name)));
    let runs = session.runs_of(&job).await.unwrap_or_else(|e| {
        or_none("runs", e);
        Vec::new()
    });
    let events = events::of(session, job.uid()).await.unwrap_or_else(|e| {
        or_none("events", e);
        Vec::new()
    });
    write!(std::io::stdout(), "{}", render::view(&job, &runs, &events, Timestamp::now()))?;
    Ok(())
}

/// The objects of a job's view.
struct Shown {
    job: AgentJob,
    runs: BTreeMap<i32, AgentRun>,
    events: HashMap<String, Happened>,
}

impl Shown {
    fn run(&mut self, change: RunChange) {
        match change {
            RunChange::Now(run) => drop(self.runs.insert(run.number(), *run)),
            RunChange::Gone(number) => drop(self.runs.remove(&number)),
        }
    }

    fn event(&mut self, event: &k8s_openapi::api::core::v1::Event) {
        if let (Some(uid), Some(happened)) = (event.metadata.uid.clone(), events::read(event)) {
            self.events.insert(uid, happened);
        }
    }
}

/// Redraws a terminal; otherwise prints a line for each change.
enum Screen {
    Terminal,
    Lines { last: String, told: HashSet<(String, i32)> },
}

async fn follow(session: &Session, name: &str) -> anyhow::Result<()> {
    let mut changes = watch::job(session, name).await?;
    let job = session.job(name).await?;
    let mut runs = watch::runs(session, &job);
    let selected = watcher::Config::default().fields(&events::selector(job.uid()));
    let mut happening = Box::pin(watcher(session.events(), selected).default_backoff().applied_objects());
    let mut shown = Shown { job, runs: BTreeMap::new(), events: HashMap::new() };
    let mut screen = match std::io::stdout().is_terminal() {
        true => Screen::Terminal,
        false => Screen::Lines { last: String::new(), told: HashSet::new() },
    };
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        screen.show(&shown)?;
        if watch::finished(&shown.job) {
            break;
        }
        tokio::select! {
            change = changes.try_next() => match change? {
                Some(changed) => shown.job = changed,
                None => break,
            },
            // Without the right to read runs or events the job is still shown.
            Some(Ok(run)) = runs.next() => shown.run(run),
            Some(Ok(event)) = happening.next() => shown.event(&event),
            // Refreshes the ages.
            _ = clock.tick() => {}
        }
    }
    let last = async {
        loop {
            tokio::select! {
                Some(run) = runs.next() => if let Ok(run) = run { shown.run(run) },
                Some(event) = happening.next() => if let Ok(event) = event { shown.event(&event) },
                else => return,
            }
        }
    };
    // It hardly ends by itself.
    let _ = tokio::time::timeout(AFTERGLOW, last).await;
    Ok(screen.show(&shown)?)
}

/// Columns and rows of the terminal, if known.
fn size() -> Option<(usize, usize)> {
    let (Width(columns), Height(rows)) = terminal_size::terminal_size()?;
    Some((columns.into(), rows.into())).filter(|size| size.0 > 0 && size.1 > 1)
}

/// Cuts a view to the terminal's size: scrolled lines can't be redrawn.
fn fit(view: &str, size: Option<(usize, usize)>) -> String {
    let Some((columns, rows)) = size else { return view.into() };
    let line = |line: &str| line.chars().take(columns).chain(['\n']).collect::<String>();
    view.lines().take(rows - 1).map(line).collect()
}

impl Screen {
    fn show(&mut self, shown: &Shown) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let mut events: Vec<_> = shown.events.iter().collect();
        events.sort_by_key(|(_, e)| e.at);
        match self {
            Self::Terminal => {
                let events: Vec<_> = events.into_iter().map(|(_, e)| e.clone()).collect();
                let runs: Vec<_> = shown.runs.values().cloned().collect();
                let view = fit(&render::view(&shown.job, &runs, &events, Timestamp::now()), size());
                // Clears line by line instead of the whole screen, to avoid flicker.
                write!(out, "\x1b[H{}\x1b[J", view.replace('\n', "\x1b[K\n"))?;
            }
            Self::Lines { last, told } => {
                for (uid, e) in events {
                    if told.insert((uid.clone(), e.count)) {
                        let line = format!("{} event {} {}: {}", e.at, e.kind, e.reason, e.message);
                        writeln!(out, "{}", plain(&line))?;
                    }
                }
                let summary = render::summary(&shown.job, shown.runs.values().next_back());
                if *last != summary {
                    writeln!(out, "{} {summary}", Timestamp::now())?;
                    *last = summary;
                }
            }
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn a_view_never_scrolls() {
        let view = "Job:  a/b\nPhase:  Rünning\nEvents:\n  one\n";
        assert_eq!(fit(view, None), view);
        assert_eq!(fit(view, Some((80, 24))), view);
        assert_eq!(fit(view, Some((10, 3))), "Job:  a/b\nPhase:  Rü\n");
    }
}
