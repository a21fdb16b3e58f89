//! An agent that does what a test asks of it, in `KODO_ENTRY_POINT`: `NAME` or `NAME?key=value&key=value`. Like any
//! agent it uses nothing of ours: what it knows comes from `KODO_*`, what it leaves goes to the files named there.
//!
//! | entry point | what it does |
//! |---|---|
//! | `succeed` | leaves what it was given as its result |
//! | `exit?code=3` | exits |
//! | `exit0-after?ms=N` | exits with 0, later, also on SIGTERM |
//! | `fail-until?attempt=3` | exits with 1 before that attempt |
//! | `error-file?type=T&message=M&nonRetryable=true` | leaves an error and exits with 1 |
//! | `signal?name=SEGV` | kills itself |
//! | `oom` | takes memory until it is killed |
//! | `sleep?seconds=N` | sleeps |
//! | `count?every_ms=20&until=N` | counts in memory and to stdout; on SIGTERM exits with 143 |
//! | `count?until=go` | the same, until there is a file `/go` |
//! | `notice?every_ms=20` | the same, and stops itself on SIGUSR1 |
//! | `daemon?every_ms=20` | the same, and so does a daemon of its own |
//! | `spawn?threads=4` | the same, while threads start processes all the time |
//! | `ignore-term?every_ms=20` | counts, and does not care for SIGTERM |
//! | `crash-on-term` | counts, and aborts on SIGTERM |
//! | `print-env` | prints the names in its environment, and leaves them and those of its inputs as its result |
//! | `big-result?bytes=N`, `bad-result` | leaves a result of that size, or one that is not JSON |
//! | `listen?port=N` | takes connections |
//! | `reach?to=NAME@IP:PORT,NAME@IP:PORT` | says again and again whom it can connect to |
//! | `checkpoint?dir=/data&every_ms=20` | counts in a file, goes on from there if resumed, ends once there is a file `end` |
//! | `tell?lines=N&each=10&every_ms=20&failures=N` | prints numbers, and sends them as events; fails in its first attempts |
//! | `tell?hold=N` | the same; its first run waits after that number until there is a file `/go` |
//! | `print?each=10&every_ms=20` | prints so many lines again and again |
//! | `ledger?file=F&ticks=N&failures=N&bytes=N&ignoreTerm=true` | enters what it does into a file outside of the pod |

use std::{
    collections::HashMap,
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio, exit},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill, raise},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{getpid, setsid},
};
use serde_json::{Value, json};

/// The counter that a freeze must neither stop from being kept nor let go on.
static COUNTER: AtomicU64 = AtomicU64::new(0);

struct Args(HashMap<String, String>);

impl Args {
    fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| default.to_owned())
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).map_or(default, |v| v.parse().expect("a number"))
    }

    fn every(&self) -> Duration {
        Duration::from_millis(self.number("every_ms", 20))
    }
}

#[expect(clippy::too_many_lines, reason = "a table of words")]
fn main() {
    let entry_point = env::var("KODO_ENTRY_POINT").expect("KODO_ENTRY_POINT");
    let (name, query) = entry_point.split_once('?').unwrap_or((&entry_point, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let args = Args(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    match name {
        "succeed" => result(&json!({
            "fid": env::var("KODO_FID").ok(),
            "attempt": attempt(),
            "resumed": env::var("KODO_RESUMED").ok(),
            "inputs": input("KODO_INPUTS_FILE"),
            "extra": input("KODO_EXTRA_FILE"),
            "pid": getpid().as_raw(),
        })),
        "exit" => exit(args.number("code", 1) as i32),
        "exit0-after" => {
            block(&[Signal::SIGTERM]);
            thread::sleep(Duration::from_millis(args.number("ms", 100)));
        }
        "fail-until" if attempt() < args.number("attempt", 3) => exit(1),
        "fail-until" => result(&json!({ "attempt": attempt() })),
        "error-file" => {
            let error = json!({
                "type": args.text("type", "Foo"),
                "message": args.text("message", "as the test wanted it"),
                "nonRetryable": args.text("nonRetryable", "false") == "true",
            });
            write("KODO_ERROR_FILE", error.to_string().as_bytes());
            exit(1);
        }
        "signal" => {
            let signal: Signal = format!("SIG{}", args.text("name", "KILL")).parse().expect("a signal");
            // Rust's own handler for some signals only gives them back their default the first time.
            loop {
                raise(signal).expect("raise");
            }
        }
        "oom" => oom(),
        "sleep" => thread::sleep(Duration::from_secs(args.number("seconds", 60))),
        "count" | "notice" => {
            handle(name == "notice", false);
            count(&args, "");
        }
        "crash-on-term" => {
            handle(false, true);
            count(&args, "");
        }
        "ignore-term" => {
            block(&[Signal::SIGTERM]);
            count(&args, "");
        }
        "daemon" => {
            again("daemon-parent", &entry_point).wait().expect("wait");
            handle(false, false);
            count(&args, "");
        }
        // The one in between, which ends at once so that the daemon belongs to nobody.
        "daemon-parent" => drop(again("daemon-child", &entry_point)),
        "daemon-child" => {
            setsid().expect("setsid");
            count(&args, "child ");
        }
        "spawn" => {
            for _ in 0..args.number("threads", 4) {
                thread::spawn(|| {
                    loop {
                        again("exit?code=0", "").wait().expect("wait");
                    }
                });
            }
            handle(false, false);
            count(&args, "");
        }
        "print-env" => {
            let mut names: Vec<String> = env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            names.sort();
            for name in &names {
                println!("env {name}");
            }
            let inputs = input("KODO_INPUTS_FILE");
            let inputs: Vec<&String> = inputs.as_object().into_iter().flat_map(|inputs| inputs.keys()).collect();
            result(&json!({ "names": names, "inputs": inputs }));
        }
        "big-result" => {
            let bytes = args.number("bytes", 40_000) as usize;
            write("KODO_RESULT_FILE", format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))).as_bytes());
        }
        "bad-result" => write("KODO_RESULT_FILE", b"this is not JSON"),
        "listen" => {
            let address = ("0.0.0.0", args.number("port", 8000) as u16);
            let listener = TcpListener::bind(address).expect("the port");
            listener.incoming().for_each(drop);
        }
        "reach" => reach(&args.text("to", "")),
        "checkpoint" => checkpoint(&args),
        "ledger" => ledger(&args),
        "tell" => tell(&args),
        "print" => loop {
            (0..args.number("each", 10))
                .for_each(|n| say(&format!("{n} what an agent prints is about as long as this is")));
            thread::sleep(args.every());
        },
        unknown => {
            eprintln!("no such behaviour: {unknown}");
            exit(2);
        }
    }
}

fn resumed() -> bool {
    env::var("KODO_RESUMED").is_ok_and(|v| v == "1")
}

fn attempt() -> u64 {
    env::var("KODO_ATTEMPT").ok().and_then(|v| v.parse().ok()).expect("KODO_ATTEMPT")
}

fn input(variable: &str) -> Value {
    let path = env::var_os(variable).expect("the name of a file");
    serde_json::from_slice(&fs::read(path).expect("the file")).expect("JSON")
}

fn write(variable: &str, content: &[u8]) {
    fs::write(env::var_os(variable).expect("the name of a file"), content).expect("write");
}

fn result(value: &Value) {
    write("KODO_RESULT_FILE", value.to_string().as_bytes());
}

/// Whether the test lets the agent go on.
fn is_let_go() -> bool {
    Path::new("/go").exists()
}

/// The wall clock, in milliseconds.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").is_err() {
        exit(3);
    }
}

/// Starts this program once more, as somebody else.
fn again(name: &str, entry_point: &str) -> std::process::Child {
    let query = entry_point.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.env("KODO_ENTRY_POINT", format!("{name}{query}")).stdin(Stdio::null()).spawn().expect("spawn")
}

fn block(signals: &[Signal]) {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block().expect("block");
}

/// Takes signals on a thread of its own: SIGTERM ends the process, SIGUSR1 stops it if `notice`, and SIGCONT is told.
fn handle(notice: bool, crash: bool) {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGCONT);
    if notice {
        set.add(Signal::SIGUSR1);
    }
    set.thread_block().expect("block");
    thread::spawn(move || {
        loop {
            match set.wait().expect("sigwait") {
                Signal::SIGTERM => {
                    say(&format!("sigterm {}", now()));
                    if crash {
                        std::process::abort();
                    }
                    exit(143);
                }
                Signal::SIGCONT => say(&format!("continued {}", now())),
                _ => {
                    say(&format!("notice {}", now()));
                    kill(getpid(), Signal::SIGSTOP).expect("stop");
                }
            }
        }
    });
}

/// Counts, with an open file and memory in use all the while, both of which the result speaks of.
fn count(args: &Args, prefix: &str) {
    let (pid, started_at) = (getpid().as_raw(), now());
    let ends = |n: u64| match args.0.get("until").map(String::as_str) {
        None => false,
        Some("go") => is_let_go(),
        Some(until) => n >= until.parse().expect("a number"),
    };
    let mut file = agent_log_file();
    let mut memory = Vec::new();
    say(&format!("{prefix}pid {pid}"));
    loop {
        let n = COUNTER.fetch_add(1, Ordering::SeqCst) + 1;
        memory.push(n);
        if let Some((_, file)) = &mut file {
            writeln!(file, "{n}").expect("the file stays open");
        }
        say(&format!("{prefix}tick {n} {}", now()));
        if ends(n) {
            break;
        }
        thread::sleep(args.every());
    }
    let in_file = file.as_ref().map(|(path, _)| fs::read_to_string(path).map_or(0, |text| text.lines().count()));
    result(&json!({
        "count": COUNTER.load(Ordering::SeqCst),
        "pid": pid,
        "startedAt": started_at as u64,
        "endedAt": now() as u64,
        "inMemory": memory.len(),
        "inOrder": memory.is_sorted(),
        "inFile": in_file,
        "fileDescriptor": file.as_ref().map(|(_, file)| file.as_raw_fd()),
    }));
}

/// Beside the result, which is the only folder that is surely writable.
fn agent_log_file() -> Option<(PathBuf, File)> {
    let path = PathBuf::from(env::var_os("KODO_RESULT_FILE")?).with_file_name(format!("agent-log-{}", getpid()));
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).ok()?;
    Some((path, file))
}

fn oom() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        // Written, so that it is really taken.
        held.push(vec![held.len() as u8 | 1; 4 << 20]);
        say(&format!("holding {} MiB", held.len() * 4));
    }
}

fn reach(targets: &str) {
    let targets: Vec<(&str, SocketAddr)> = targets
        .split(',')
        .filter_map(|target| target.split_once('@'))
        .map(|(name, address)| (name, address.parse().expect("an address")))
        .collect();
    loop {
        let tries: Vec<_> = targets.iter().map(|(_, to)| *to).map(|to| thread::spawn(move || connects(&to))).collect();
        let reached = tries.into_iter().map(|one| one.join().expect("a thread"));
        let said: Vec<String> = targets.iter().zip(reached).map(|((name, _), yes)| format!("{name}={yes}")).collect();
        say(&format!("reach {}", said.join(" ")));
        thread::sleep(Duration::from_millis(200));
    }
}

fn connects(to: &SocketAddr) -> bool {
    TcpStream::connect_timeout(to, Duration::from_secs(2)).is_ok()
}

fn checkpoint(args: &Args) {
    let folder = PathBuf::from(args.text("dir", "/data"));
    let path = folder.join("checkpoint");
    let resumed = resumed();
    let start = if resumed { fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) } else { None };
    let mut n: u64 = start.unwrap_or(0);
    say(&format!("from {n} {}", if resumed { "resumed" } else { "new" }));
    handle(false, false);
    loop {
        n += 1;
        let temporary = path.with_extension("new");
        fs::write(&temporary, n.to_string()).and_then(|()| fs::rename(&temporary, &path)).expect("checkpoint");
        say(&format!("tick {n} {}", now()));
        if folder.join("end").exists() {
            break;
        }
        thread::sleep(args.every());
    }
    result(&json!({ "count": n, "resumedFrom": start, "pid": getpid().as_raw() }));
}

/// Enters its start, each tick and its end into a file that other agents of the job and the test share: lines of a time in
/// milliseconds, the pod, and what happened. Fails in its first attempts, `failures` of them.
fn ledger(args: &Args) {
    let path = args.text("file", "/ledger/job");
    let pod = env::var("HOSTNAME").expect("HOSTNAME");
    // A line is one write at the end of the file, so lines of several agents don't mix.
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the ledger");
    let mut enter = move |what: &str| {
        let line = format!("{} {pod} {what}\n", now());
        file.write_all(line.as_bytes()).expect("the ledger");
    };
    block(&[Signal::SIGTERM]);
    let terms = [Signal::SIGTERM].into_iter().collect();
    let terms = SignalFd::with_flags(&terms, SfdFlags::SFD_NONBLOCK).expect("signalfd");
    enter(&format!("start {} {}", attempt(), env::var("KODO_RESUMED").unwrap_or_default()));
    let ignores = args.text("ignoreTerm", "false") == "true";
    for n in 1..=args.number("ticks", 10) {
        // First: an agent that was frozen is resumed for it.
        if terms.read_signal().expect("signalfd").is_some() {
            enter("sigterm");
            if !ignores {
                exit(143);
            }
        }
        enter(&format!("tick {n}"));
        thread::sleep(Duration::from_millis(args.number("every_ms", 100)));
    }
    if attempt() <= args.number("failures", 0) {
        enter("fail");
        exit(1);
    }
    let nonce = format!("{}-{}", getpid(), now());
    result(&json!({ "nonce": nonce, "filler": "x".repeat(args.number("bytes", 0) as usize) }));
    enter(&format!("done {nonce}"));
}

/// Prints numbers, and tells them on the runner's socket. It goes on when the runner has them.
fn tell(args: &Args) {
    let socket = UnixStream::connect(env::var_os("KODO_RUNNER_SOCK").expect("KODO_RUNNER_SOCK")).expect("the socket");
    let mut answers = BufReader::new(socket.try_clone().expect("the socket"));
    let mut socket = socket;
    let (lines, each) = (args.number("lines", 10), args.number("each", 10));
    let hold = if attempt() == 1 && !resumed() { args.number("hold", lines) } else { lines };
    let mut n = 0;
    while n < lines {
        while n >= hold && !is_let_go() {
            thread::sleep(args.every());
        }
        let (first, last) = (n + 1, lines.min(n + each));
        let (mut printed, mut told) = (String::new(), String::new());
        for n in first..=last {
            printed.push_str(&format!("line {n}\n"));
            told.push_str(&format!("{}\n", json!({ "seq": n, "kind": "action", "payload": n.to_string() })));
        }
        std::io::stdout().write_all(printed.as_bytes()).expect("stdout");
        socket.write_all(told.as_bytes()).expect("the socket");
        while n < last {
            let mut answer = String::new();
            answers.read_line(&mut answer).expect("the socket");
            let answer: Value = serde_json::from_str(&answer).expect("an answer");
            n = answer["ack"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        }
        thread::sleep(args.every());
    }
    if attempt() <= args.number("failures", 0) {
        exit(1);
    }
    result(&json!({ "lines": lines }));
}
