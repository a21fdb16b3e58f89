//! What the kernel says of this process, under the names that Prometheus' own clients use.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::Described;

/// The kernel counts CPU time for user space in hundredths of a second, on every platform that koco runs on.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process;

/// Read at a scrape.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    threads: u64,
    open_files: u64,
    maximum_files: u64,
    start_seconds: f64,
}

fn number(text: &str, line: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(line))?.split_whitespace().next()?.parse().ok()
}

/// From `/proc/self/stat`, `status` and `limits`, and from `/proc/stat`.
fn usage(stat: &str, status: &str, limits: &str, boot: &str) -> Option<Usage> {
    // The name, which may hold anything, ends at the last bracket; the field after it is the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
    let booted = number(boot, "btime ")?;
    Some(Usage {
        cpu_seconds: (field(14)? + field(15)?) / TICKS,
        resident_bytes: number(status, "VmRSS:")?.saturating_mul(1024),
        threads: number(status, "Threads:")?,
        open_files: 0,
        maximum_files: number(limits, "Max open files").unwrap_or_default(),
        start_seconds: booted as f64 + field(22)? / TICKS,
    })
}

fn read() -> Option<Usage> {
    let text = |file: &str| fs::read_to_string(file).ok();
    let (stat, status) = (text("/proc/self/stat")?, text("/proc/self/status")?);
    let mut usage = usage(&stat, &status, &text("/proc/self/limits")?, &text("/proc/stat")?)?;
    usage.open_files = fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64);
    Some(usage)
}

const CPU: (&str, &str) = ("process_cpu_seconds", "CPU time");

impl Usage {
    fn gauges(&self) -> [(&'static str, &'static str, f64); 5] {
        [
            ("process_resident_memory_bytes", "Resident memory", self.resident_bytes as f64),
            ("process_threads", "Threads", self.threads as f64),
            ("process_open_fds", "Open file descriptors", self.open_files as f64),
            ("process_max_fds", "The limit of open file descriptors", self.maximum_files as f64),
            ("process_start_time_seconds", "When it started, in Unix time", self.start_seconds),
        ]
    }
}

/// For the reference.
pub(super) fn described() -> Vec<Described> {
    let gauges = Usage::default().gauges().map(|(name, help, _)| Described::new(name, MetricType::Gauge, &[], help));
    [Described::new(CPU.0, MetricType::Counter, &[], CPU.1)].into_iter().chain(gauges).collect()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(usage) = read() else { return Ok(()) };
        let cpu = ConstCounter::new(usage.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(CPU.0, CPU.1, None, cpu.metric_type())?)?;
        for (name, help, value) in usage.gauges() {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 1000 1 1";
        let status = "Name:\tkoco\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        let limits = "Limit   Soft Limit  Hard Limit\nMax open files            1024                 4096  files\n";
        let usage = usage(stat, status, limits, "cpu 1 2\nbtime 1700000000\n").unwrap();
        let wanted = Usage {
            cpu_seconds: 2.0,
            resident_bytes: 2048 * 1024,
            threads: 3,
            open_files: 0,
            maximum_files: 1024,
            start_seconds: 1_700_000_010.0,
        };
        assert_eq!(usage, wanted);
        let own = read().unwrap();
        assert!(own.resident_bytes > 0 && own.open_files > 2 && own.threads > 0, "{own:?}");
    }
}
