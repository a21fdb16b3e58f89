//! `events`: what an agent told while it ran, from the server: as far as it is there, or as it comes. [`sse`] reads the
//! stream, [`show`] chooses and prints events.

mod show;
mod sse;

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::{
    show::{Event, Wanted, line},
    sse::Parser,
};
use super::{
    archive::find::{self, Found},
    connect::{Session, job_name},
    server::{Access, Chunks, Server, Trouble},
    text::{self, raw_json, say},
};
use crate::{api::Seconds, platform::clock, protocol::events::Kind};

pub(super) const HELP: &str = "\
An agent's events are its lines of output, and what it tells through its runner: koco's server keeps them when the job \
and its pods are gone. Of several jobs of a name, those of the newest are printed.

With --follow it goes on until the job has ended. If the connection breaks off, it goes on where it was.";

/// How many events are asked for at a time.
const PAGE: i64 = 1000;
/// How long it waits before it asks again, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How often it asks for an execution that the server has not seen yet, or for what it is too busy for.
const TRIES: u32 = 10;

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob, which may be gone
    #[arg(value_parser = job_name, required_unless_present = "fid", conflicts_with = "fid")]
    name: Option<String>,
    /// Its execution, by its fid instead
    #[arg(long, value_name = "FID", value_parser = find::fid)]
    fid: Option<String>,
    /// Print new events as they come, until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Those of this time until now, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse)]
    since: Option<Duration>,
    /// Those of these kinds, such as result,final
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kinds())]
    kind: Vec<String>,
    /// Those of the run of this number
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    /// How to print them: a line each, or as one JSON object each
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

fn kinds() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::as_str))
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let mut server = Server::find(session, &arguments.access).await?;
    let found = match (&arguments.fid, &arguments.name) {
        (Some(fid), _) => Found { fid: fid.clone(), is_there: false },
        (None, name) => find::by_name(session, &mut server, name.as_deref().unwrap_or_default()).await?,
    };
    let since = arguments.since.map(|age| clock::now().as_millisecond() as f64 / 1000.0 - age.as_secs_f64());
    let mut printer = Printer {
        wanted: Wanted { kinds: arguments.kind.clone(), run: arguments.run, since },
        json: arguments.output == Output::Json,
        colours: text::colours(),
        after: 0,
        printed: false,
    };
    let path = format!("/api/v1/executions/{}/events", found.fid);
    if arguments.follow {
        return follow(&mut server, &path, &mut printer, found.is_there).await;
    }
    pages(&mut server, &path, &mut printer, found.is_there).await?;
    if !printer.printed {
        say(format_args!("No events found of the execution {}", found.fid));
    }
    Ok(())
}

/// Prints events, and knows the last one that came.
struct Printer {
    wanted: Wanted,
    json: bool,
    colours: bool,
    after: i64,
    printed: bool,
}

impl Printer {
    /// Prints an event if it is wanted.
    fn take(&mut self, json: &str, out: &mut impl Write) -> anyhow::Result<()> {
        let event: Event = serde_json::from_str(json).map_err(|_| Trouble::unreadable())?;
        // What comes twice is printed once.
        if event.row <= self.after {
            return Ok(());
        }
        if self.wanted.fits(&event) {
            self.printed = true;
            match self.json {
                true => writeln!(out, "{}", raw_json(json))?,
                false => writeln!(out, "{}", line(&event, self.colours))?,
            }
        }
        self.after = event.row;
        Ok(())
    }
}

/// How long it waits before it asks again.
#[derive(Debug)]
struct Patience {
    next: Duration,
    tries: u32,
}

impl Patience {
    fn new() -> Self {
        Self { next: WAIT.0, tries: 0 }
    }

    /// Waits, each time for longer. Returns how often it has.
    async fn wait(&mut self) -> u32 {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(WAIT.1);
        self.tries += 1;
        self.tries
    }
}

/// A page of events.
#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    after: i64,
}

/// Prints the events that there are.
async fn pages(server: &mut Server, path: &str, printer: &mut Printer, is_there: bool) -> anyhow::Result<()> {
    let mut patience = Patience::new();
    loop {
        let parameters = [("after", printer.after.to_string()), ("limit", PAGE.to_string())];
        let bytes = match server.read(path, &parameters).await {
            Ok(bytes) => bytes,
            Err(trouble) if is_worth(&trouble, is_there && printer.after == 0, printer.after > 0) => {
                if patience.wait().await > TRIES {
                    return Err(trouble.into());
                }
                continue;
            }
            Err(trouble) => return Err(trouble.into()),
        };
        patience = Patience::new();
        let page: Page = serde_json::from_slice(&bytes).map_err(|_| Trouble::unreadable())?;
        let mut out = io::stdout().lock();
        page.items.iter().try_for_each(|item| printer.take(item.get(), &mut out))?;
        out.flush()?;
        // Events of kinds that this server doesn't know are left out of a page.
        if page.items.is_empty() && page.after <= printer.after {
            return Ok(());
        }
        printer.after = printer.after.max(page.after);
    }
}

/// Whether it is worth a second try: where the way there worked before, and of a job that may not be in the archive yet.
fn is_worth(trouble: &Trouble, may_be_new: bool, worked: bool) -> bool {
    (may_be_new && trouble.is_unknown()) || (trouble.may_pass() && (worked || !matches!(trouble, Trouble::Away(_))))
}

/// How a stream of events came to its end.
enum End {
    /// The execution has ended.
    Over,
    /// The connection has: of itself, or broken off.
    Closed,
    Broken(Trouble),
}

/// Prints events as they come, over as many connections as it takes.
async fn follow(server: &mut Server, path: &str, printer: &mut Printer, is_there: bool) -> anyhow::Result<()> {
    let (mut patience, mut worked, mut told) = (Patience::new(), false, false);
    loop {
        let before = printer.after;
        let trouble = match server.stream(path, printer.after).await {
            Ok(chunks) => {
                worked = true;
                match print(chunks, printer).await? {
                    End::Over => return Ok(()),
                    // The server stops, or the token is old.
                    End::Closed => None,
                    End::Broken(trouble) => Some(trouble),
                }
            }
            Err(trouble) if is_worth(&trouble, is_there && !worked, worked) => {
                if !worked && patience.tries >= TRIES {
                    return Err(trouble.into());
                }
                Some(trouble)
            }
            Err(trouble) => return Err(trouble.into()),
        };
        if let Some(trouble) = trouble.filter(|_| worked && !std::mem::replace(&mut told, true)) {
            say(format_args!("{trouble}; it goes on where it was as soon as it can"));
        }
        if printer.after > before {
            (patience, told) = (Patience::new(), false);
        }
        patience.wait().await;
    }
}

/// Prints what comes of one connection.
async fn print(mut chunks: Chunks, printer: &mut Printer) -> anyhow::Result<End> {
    let mut parser = Parser::default();
    while let Some(chunk) = chunks.next().await {
        let bytes = match chunk {
            Ok(bytes) => bytes,
            Err(trouble) => return Ok(End::Broken(trouble)),
        };
        let frames = parser.push(&bytes)?;
        let mut out = io::stdout().lock();
        for frame in frames {
            if frame.event == "end" {
                out.flush()?;
                return Ok(End::Over);
            }
            printer.take(&frame.data, &mut out)?;
        }
        out.flush()?;
    }
    Ok(End::Closed)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use futures::stream;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn an_execution_is_named_in_one_way() {
        let parse = |line: &str| Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        let fid = "6740c100aabbccddeeff0011";
        for right in ["x", "aj/x -f --since 5m --kind result,final --run 2 -o json", &format!("--fid {fid}")] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["", &format!("x --fid {fid}"), "--fid x", "x --kind results", "x y", "../x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            parse("x --kind result,final").unwrap_or_else(|e| panic!("{e}")).arguments.kind,
            ["result", "final"]
        );
    }

    fn printer(json: bool) -> Printer {
        Printer { wanted: Wanted::default(), json, colours: false, after: 0, printed: false }
    }

    fn event(row: i64, payload: &str) -> String {
        serde_json::json!({ "row": row, "run": 1, "number": row, "ts": 0.5, "kind": "stdout", "payload": payload })
            .to_string()
    }

    #[test]
    fn what_comes_twice_is_printed_once() {
        let (mut printer, mut out) = (printer(true), Vec::new());
        for row in [1, 2, 2, 1, 3] {
            printer.take(&event(row, "\u{1b}[2J"), &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<i64> = text.lines().map(|l| serde_json::from_str::<Event>(l).unwrap().row).collect();
        assert_eq!((rows, printer.after), (vec![1, 2, 3], 3));
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(printer.take("[]x", &mut Vec::new()).is_err());
    }

    #[tokio::test]
    async fn a_stream_tells_its_end_from_that_of_the_connection() {
        let chunks = |parts: Vec<Result<String, Trouble>>| -> Chunks {
            Box::pin(stream::iter(parts.into_iter().map(|part| part.map(Into::into))))
        };
        let frame = |row: i64| format!("id: {row}\nevent: stdout\ndata: {}\n\n", event(row, "x"));
        let over = "event: end\ndata: {}\n\n".to_string();
        let mut printer = printer(true);
        assert!(matches!(print(chunks(vec![Ok(frame(1)), Ok(over)]), &mut printer).await, Ok(End::Over)));
        assert!(matches!(print(chunks(vec![Ok(frame(2))]), &mut printer).await, Ok(End::Closed)));
        let broken = Err(Trouble::Away("x".into()));
        assert!(matches!(print(chunks(vec![Ok(frame(3)), broken]), &mut printer).await, Ok(End::Broken(_))));
        assert_eq!(printer.after, 3, "there it goes on");
    }

    #[test]
    fn a_second_try_is_for_what_may_pass() {
        let away = || Trouble::Away("x".into());
        let status = |status| Trouble::Refused { status, words: "x".into() };
        assert!(!is_worth(&away(), true, false), "the first time it is said at once");
        assert!(is_worth(&away(), false, true));
        assert!(is_worth(&status(403), true, false) && is_worth(&status(404), true, false), "not archived yet");
        assert!(!is_worth(&status(403), false, true) && !is_worth(&status(410), true, true));
        assert!(is_worth(&status(429), false, false) && is_worth(&status(503), false, false));
        assert!(!is_worth(&Trouble::Final("x".into()), true, true));
    }
}
