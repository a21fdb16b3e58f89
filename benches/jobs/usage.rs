//! What processes use, as the kernel counts it.

use std::{collections::BTreeMap, fs};

/// Linux gives user space a hundred ticks a second, whatever its own are.
const MILLIS_PER_TICK: f64 = 10.0;

/// The processor time that `/proc/PID/stat` tells, in milliseconds.
pub fn cpu_millis(stat: &str) -> Option<f64> {
    // The name may hold anything, and ends at the last bracket. The third field follows.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) * MILLIS_PER_TICK)
}

/// The most resident memory that `/proc/PID/status` tells, in MiB.
pub fn peak_mib(status: &str) -> Option<f64> {
    mib(status, "VmHWM:")
}

fn mib(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// The resident memory of a process, in MiB, while there is one.
pub fn memory(pid: i32) -> Option<f64> {
    mib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// Processes by name. Those of one name count together.
#[derive(Default)]
pub struct Processes(pub Vec<(String, i32)>);

/// A figure of each.
pub type PerProcess = BTreeMap<String, f64>;

impl Processes {
    /// From `NAME=PID NAME=PID`.
    pub fn named(text: &str) -> Self {
        let pair = |word: &str| word.split_once('=').and_then(|(name, pid)| Some((name.into(), pid.parse().ok()?)));
        Self(text.split_whitespace().filter_map(pair).collect())
    }

    /// The servers, whose ids the script that started them tells.
    pub fn servers() -> Self {
        Self::named(&std::env::var("KOCO_SERVERS").expect("KOCO_SERVERS is set by tests/api/run"))
    }

    fn each(&self, file: &str, read: impl Fn(&str) -> Option<f64>) -> PerProcess {
        let mut all = PerProcess::new();
        for (name, pid) in &self.0 {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            *all.entry(name.clone()).or_default() += read(&text).unwrap_or_else(|| panic!("{name} has ended"));
        }
        all
    }

    /// The processor time of each so far, in milliseconds.
    pub fn cpu(&self) -> PerProcess {
        self.each("stat", cpu_millis)
    }

    /// The memory of each now, in MiB.
    pub fn memory(&self) -> PerProcess {
        self.each("status", |status| mib(status, "VmRSS:"))
    }

    /// The most memory of each since [`Processes::forget_peaks`], in MiB.
    pub fn peaks(&self) -> PerProcess {
        self.each("status", peak_mib)
    }

    /// Counts peaks from here on.
    pub fn forget_peaks(&self) {
        for (_, pid) in &self.0 {
            // Without the right to it they count from the process's start.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}
