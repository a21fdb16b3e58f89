//! What is used over time, second by second, for the picture: a thread reads it beside the bench.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    report::OURS,
    requests::{self, AuditLog},
    svg::{Lines, draw_lines},
    usage::{Processes, memory},
};

const EVERY: Duration = Duration::from_secs(1);
/// Those whose memory is shown.
const SHOWN: [&str; 4] = ["gateway", "controller", "temporal-worker", "kube-apiserver"];

/// Seconds and values of one thing.
type Line = Vec<(f64, f64)>;

/// What was read.
#[derive(Clone, Default)]
pub struct Series {
    requests: BTreeMap<String, Line>,
    memory: BTreeMap<String, Line>,
    marks: Vec<(f64, String)>,
}

#[derive(Default)]
struct Shared {
    processes: Mutex<Processes>,
    series: Mutex<Series>,
    over: AtomicBool,
}

/// Reads until it is ended.
pub struct Samples {
    shared: Arc<Shared>,
    began: Instant,
    /// Until it begins.
    log: Option<(AuditLog, String)>,
    thread: Option<JoinHandle<()>>,
}

impl Samples {
    pub fn new(log: AuditLog, release: &str) -> Self {
        let log = Some((log, release.to_string()));
        Self { shared: Arc::default(), began: Instant::now(), log, thread: None }
    }

    /// Reads from now on.
    pub fn begin(&mut self, processes: Processes) {
        let (Some((mut log, release)), shared) = (self.log.take(), self.shared.clone()) else { return };
        self.began = Instant::now();
        let began = self.began;
        self.watch("", processes);
        self.thread = Some(std::thread::spawn(move || {
            log.news();
            let mut last = Instant::now();
            while !shared.over.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                let (table, took) = (requests::count(log.news().lines(), &release), last.elapsed().as_secs_f64());
                last = Instant::now();
                let mut series = shared.series.lock().expect("the series");
                let at = began.elapsed().as_secs_f64();
                for role in OURS {
                    let rate = requests::sum(&table, |(who, ..)| who == role).all as f64 / took;
                    series.requests.entry(role.into()).or_default().push((at, rate));
                }
                for (name, pid) in &shared.processes.lock().expect("the processes").0 {
                    // One that is just being restarted has none.
                    if let Some(mib) = memory(*pid).filter(|_| SHOWN.contains(&name.as_str())) {
                        series.memory.entry(name.clone()).or_default().push((at, mib));
                    }
                }
            }
        }));
    }

    /// These are the processes from now on; `what` happens, if anything.
    pub fn watch(&self, what: &str, processes: Processes) {
        *self.shared.processes.lock().expect("the processes") = processes;
        if !what.is_empty() {
            let at = self.began.elapsed().as_secs_f64();
            self.shared.series.lock().expect("the series").marks.push((at, what.to_string()));
        }
    }

    pub fn end(&mut self) -> Series {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the samples");
        }
        self.shared.series.lock().expect("the series").clone()
    }
}

impl Series {
    pub fn picture(&self, title: &str) -> String {
        let lines = |title: &str, of: &BTreeMap<String, Line>, wanted: &dyn Fn(&str) -> bool| Lines {
            title: title.into(),
            lines: of
                .iter()
                .filter(|(name, _)| wanted(name))
                .map(|(name, line)| (name.clone(), line.clone()))
                .collect(),
        };
        let server = |name: &str| name == "kube-apiserver";
        let all = [
            lines("requests to the API server a second, but leases and watches", &self.requests, &|_| true),
            lines("memory of koco's roles, MiB", &self.memory, &|name| !server(name)),
            lines("memory of the API server, MiB", &self.memory, &server),
        ];
        draw_lines(title, &all, &self.marks)
    }
}
