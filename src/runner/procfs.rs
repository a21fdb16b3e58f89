//! The container's processes and memory, from /proc and the cgroup. Read by [`super::process`] and
//! [`super::supervisor`].

use std::{fs, io, path::Path};

/// A process of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// As the process calls itself, at most 15 bytes.
    pub name: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name.escape_debug(), self.pid)
    }
}

/// The living processes of the container, without the runner.
#[derive(Debug, Default, PartialEq)]
pub struct Survey {
    /// Those with at least one thread that is not stopped.
    pub moving: Vec<Process>,
    /// Those of them in uninterruptible sleep.
    pub blocked: Vec<i32>,
    /// Those that are stopped, with their parents.
    pub stopped: Vec<(i32, i32)>,
}

/// Scans every thread of every process: `/proc/PID/stat` has only the state of the first thread, and a process may run
/// on after that has ended.
pub fn survey(proc: &Path, me: i32) -> io::Result<Survey> {
    // The /proc of another PID namespace would show other processes.
    let self_link = fs::read_link(proc.join("self"))?;
    if self_link.to_str() != Some(me.to_string().as_str()) {
        return Err(io::Error::other(format!(
            "/proc is not of this process namespace: self is {}",
            self_link.display()
        )));
    }
    let mut survey = Survey::default();
    for entry in fs::read_dir(proc)? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if pid == me {
            continue;
        }
        let Some(tasks) = gone_is_none(fs::read_dir(proc.join(format!("{pid}/task"))))? else { continue };
        let (mut moving, mut blocked, mut stopped, mut parent) = (None, false, false, 0);
        for task in tasks {
            let Some(task) = gone_is_none(task)? else { continue };
            let Some(stat) = gone_is_none(fs::read(task.path().join("stat")))? else { continue };
            let stat = String::from_utf8_lossy(&stat);
            let (name, state, ppid) =
                parse_stat(&stat).ok_or_else(|| io::Error::other(format!("odd stat of {pid}")))?;
            parent = ppid;
            match state {
                'T' | 't' => stopped = true,
                'Z' | 'X' | 'x' => {}
                state => {
                    moving = Some(name.to_owned());
                    blocked |= state == 'D';
                }
            }
        }
        if let Some(name) = moving {
            survey.moving.push(Process { pid, name });
        } else if stopped {
            survey.stopped.push((pid, parent));
        }
        if blocked {
            survey.blocked.push(pid);
        }
    }
    Ok(survey)
}

/// Whether /proc may hide other users' processes, so that a scan doesn't show them all.
pub fn hides_processes() -> io::Result<bool> {
    Ok(hides(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount that counts is the last one there. The option is `hidepid=2` or, since Linux 5.8, `hidepid=invisible`.
fn hides(mounts: &str) -> bool {
    let proc = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"));
    let options = proc.into_iter().flat_map(|line| line.split([' ', ',']));
    options.filter_map(|option| option.strip_prefix("hidepid=")).any(|how| !matches!(how, "0" | "off"))
}

/// Processes and threads may end during the scan.
fn gone_is_none<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Name, state and parent. The name before them may contain anything, even parentheses and line ends.
fn parse_stat(stat: &str) -> Option<(&str, char, i32)> {
    let end = stat.rfind(')')?;
    let name = stat.get(stat.find('(')? + 1..end)?;
    let mut fields = stat.get(end + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((name, state, fields.next()?.parse().ok()?))
}

/// The process that traces this one; 0 if none does.
pub fn tracer() -> io::Result<i32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
    tracer.ok_or_else(|| io::Error::other("TracerPid is missing"))
}

/// How many processes of this container the kernel has killed because they were out of memory: cgroup v2, or v1.
pub fn oom_kills() -> Option<u64> {
    ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"]
        .iter()
        .find_map(|path| parse_oom_kills(&fs::read_to_string(path).ok()?))
}

fn parse_oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_a_state() {
        assert_eq!(parse_stat("12 (sh) S 1 12 12 0"), Some(("sh", 'S', 1)));
        assert_eq!(parse_stat("12 (a) T 1 (b) R 7 1"), Some(("a) T 1 (b", 'R', 7)));
        assert_eq!(parse_stat("12 (a\n) D 3 9"), Some(("a\n", 'D', 3)));
        assert_eq!(parse_stat("12"), None);
    }

    #[test]
    fn a_proc_that_hides_processes_is_recognised() {
        let line = |at: &str, options: &str| format!("30 25 0:26 / {at} rw,nosuid shared:5 - proc proc {options}\n");
        for (options, hides) in
            [("rw", false), ("rw,hidepid=off", false), ("rw,gid=5,hidepid=invisible", true), ("rw,hidepid=2", true)]
        {
            assert_eq!(super::hides(&(line("/", "rw") + &line("/proc", options))), hides, "{options}");
        }
        assert!(
            !super::hides(&(line("/proc", "rw,hidepid=2") + &line("/proc", "rw"))),
            "the last one covers the first"
        );
        assert!(!super::hides(&line("/other/proc", "rw,hidepid=2")));
    }

    #[test]
    fn both_generations_of_cgroups_tell_of_memory() {
        assert_eq!(parse_oom_kills("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(parse_oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
        assert_eq!(parse_oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn a_survey_sees_running_threads_and_refuses_another_proc() {
        let me = std::process::id() as i32;
        assert!(survey(Path::new("/proc"), me + 1).is_err());
        assert!(survey(Path::new("/proc"), me).unwrap().moving.iter().all(|p| p.pid != me));
    }
}
