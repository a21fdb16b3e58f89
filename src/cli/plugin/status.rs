//! `status`: where a job stands, once or until its end.

use std::{
    collections::{HashMap, HashSet},
    io::{IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{WatchStreamExt, watcher};
use terminal_size::{Height, Width};

use super::{
    connect::Session,
    events::{self, Happened},
    render, watch,
};
use crate::api::AgentJob;

/// What comes in within this time of the end is still shown: events are written apart from the status.
const AFTERGLOW: Duration = Duration::from_millis(700);

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    name: String,
    /// Go on showing it as it changes, until its end
    #[arg(short, long)]
    pub watch: bool,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.watch {
        return follow(session, &arguments.name).await;
    }
    let job = session.job(&arguments.name).await?;
    let events = match events::of(session, job.uid()).await {
        Ok(events) => events,
        Err(e) => {
            eprintln!("warning: no events: {:#}", session.explain(e, &arguments.name));
            Vec::new()
        }
    };
    write!(std::io::stdout(), "{}", render::view(&job, &events, Timestamp::now()))?;
    Ok(())
}

/// A terminal is drawn anew; anything else gets a line for each change.
enum Screen {
    Terminal,
    Lines { last: String, told: HashSet<(String, i32)> },
}

async fn follow(session: &Session, name: &str) -> anyhow::Result<()> {
    let mut changes = watch::job(session, name).await?;
    let mut job = session.job(name).await?;
    let selected = watcher::Config::default().fields(&events::selector(job.uid()));
    let mut happening = Box::pin(watcher(session.events(), selected).default_backoff().applied_objects());
    let mut seen: HashMap<String, Happened> = HashMap::new();
    let mut screen = match std::io::stdout().is_terminal() {
        true => Screen::Terminal,
        false => Screen::Lines { last: String::new(), told: HashSet::new() },
    };
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        screen.show(&job, &seen)?;
        if watch::finished(&job) {
            break;
        }
        tokio::select! {
            change = changes.try_next() => match change? {
                Some(changed) => job = changed,
                None => break,
            },
            // A role that may not read events still sees the job.
            Some(Ok(event)) = happening.next() => keep(&mut seen, &event),
            // Ages grow on a screen.
            _ = clock.tick() => {}
        }
    }
    let last = async {
        while let Some(event) = happening.next().await {
            if let Ok(event) = event {
                keep(&mut seen, &event);
            }
        }
    };
    // It never ends by itself.
    let _ = tokio::time::timeout(AFTERGLOW, last).await;
    Ok(screen.show(&job, &seen)?)
}

fn keep(seen: &mut HashMap<String, Happened>, event: &k8s_openapi::api::core::v1::Event) {
    if let (Some(uid), Some(happened)) = (event.metadata.uid.clone(), events::read(event)) {
        seen.insert(uid, happened);
    }
}

/// Columns and rows of the terminal, if it tells.
fn size() -> Option<(usize, usize)> {
    let (Width(columns), Height(rows)) = terminal_size::terminal_size()?;
    Some((columns.into(), rows.into())).filter(|size| size.0 > 0 && size.1 > 1)
}

/// As much of a view as there is room for: what scrolls can't be drawn over.
fn fit(view: &str, size: Option<(usize, usize)>) -> String {
    let Some((columns, rows)) = size else { return view.into() };
    let line = |line: &str| line.chars().take(columns).chain(['\n']).collect::<String>();
    view.lines().take(rows - 1).map(line).collect()
}

impl Screen {
    fn show(&mut self, job: &AgentJob, seen: &HashMap<String, Happened>) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let mut events: Vec<_> = seen.iter().collect();
        events.sort_by_key(|(_, e)| e.at);
        match self {
            Self::Terminal => {
                let events: Vec<_> = events.into_iter().map(|(_, e)| e.clone()).collect();
                let view = fit(&render::view(job, &events, Timestamp::now()), size());
                // Home, each line to its end, and what is left below: nothing flickers.
                write!(out, "\x1b[H{}\x1b[J", view.replace('\n', "\x1b[K\n"))?;
            }
            Self::Lines { last, told } => {
                for (uid, e) in events {
                    if told.insert((uid.clone(), e.count)) {
                        writeln!(out, "{} event {} {}: {}", e.at, e.kind, e.reason, e.message)?;
                    }
                }
                let summary = render::summary(job);
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
