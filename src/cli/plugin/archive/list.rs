//! `archive list`: executions of a namespace or of all, the newest first, page by page.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{
    super::{
        connect::Session,
        list::Listing,
        select::parse_phase,
        server::{Access, Server},
        text::{self, Progress, raw_json, say},
    },
    find, reference,
};
use crate::{
    api::{Phase, Seconds},
    platform::{clock, text::age},
};

/// How many executions are asked for at a time, at most.
const PAGE: usize = 500;

#[derive(Args)]
pub(in super::super) struct Arguments {
    #[command(flatten)]
    listing: Listing,
    /// Those in this phase
    #[arg(long, value_name = "PHASE", value_parser = parse_phase)]
    phase: Option<Phase>,
    /// Those of this entry point
    #[arg(long, value_name = "TEXT")]
    entry_point: Option<String>,
    /// Those of this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Those that were created since then: 24h ago, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Those that were created before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// Those whose inputs, result or error have this text in them
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// How many at most; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Go on after the list that said so
    #[arg(long = "continue", value_name = "FID", value_parser = find::fid)]
    next: Option<String>,
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Table,
    /// With more columns: mode, owner, entry point, and when the job was gone
    Wide,
    Name,
    Json,
}

/// A time, or how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    At(Timestamp),
    Ago(std::time::Duration),
}

fn moment(text: &str) -> Result<Moment, String> {
    match text.parse() {
        Ok(time) => Ok(Moment::At(time)),
        Err(_) => match Seconds::parse(text) {
            Ok(ago) if !text.is_empty() => Ok(Moment::Ago(ago)),
            _ => Err("neither a duration such as 24h nor a time such as 2026-01-31T12:00:00Z".into()),
        },
    }
}

impl Moment {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let mut server = Server::find(session, &arguments.access).await?;
    let namespace = (!arguments.listing.all_namespaces).then_some(session.namespace.as_str());
    let parameters = parameters(arguments, namespace, clock::now());
    let mut printer = Printer::new(arguments);
    let (mut left, mut next, mut progress) = (Left::of(arguments.limit), arguments.next.clone(), Progress::new());
    loop {
        let mut page: Vec<(&str, String)> = parameters.clone();
        page.push(("limit", left.page().to_string()));
        page.extend(next.take().map(|fid| ("continue", fid)));
        let answer = server.get("/api/v1/executions", &page).await?;
        progress.clear();
        let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        write!(io::stdout(), "{}", printer.page(items, clock::now()))?;
        // A page is there at once, also in a pipe.
        io::stdout().flush()?;
        next = find::next(&answer);
        if !left.take(items.len()) || next.is_none() {
            break;
        }
        // A search may look at many for a page with few.
        progress.show(format_args!("{} so far", printer.printed));
    }
    write!(io::stdout(), "{}", printer.end(next.as_deref()))?;
    if printer.printed == 0 && printer.output != Output::Json {
        say(match namespace {
            Some(namespace) => format!("No executions found of the namespace {namespace}"),
            None => "No executions found".into(),
        });
    }
    if let Some(next) = next {
        say(format_args!("There may be more: --continue {next}, or --limit 0 for all"));
    }
    Ok(())
}

/// What the server is asked for, whatever the page.
fn parameters(arguments: &Arguments, namespace: Option<&str>, now: Timestamp) -> Vec<(&'static str, String)> {
    let time = |moment: Option<Moment>| moment.map(|moment| moment.at(now).to_string());
    let all = [
        ("namespace", namespace.map(str::to_string)),
        ("phase", arguments.phase.map(|phase| phase.as_str().to_string())),
        ("entryPoint", arguments.entry_point.clone()),
        ("owner", arguments.owner.clone()),
        ("since", time(arguments.since)),
        ("until", time(arguments.until)),
        ("search", arguments.search.clone()),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// How many are still to be printed; `None`: all.
struct Left(Option<usize>);

impl Left {
    fn of(limit: usize) -> Self {
        Self((limit > 0).then_some(limit))
    }

    /// How many to ask for.
    fn page(&self) -> usize {
        self.0.unwrap_or(PAGE).clamp(1, PAGE)
    }

    /// Counts those that have come. Returns whether more are wanted.
    fn take(&mut self, came: usize) -> bool {
        self.0 = self.0.map(|left| left.saturating_sub(came));
        self.0 != Some(0)
    }
}

/// How executions become lines.
struct Printer {
    output: Output,
    namespaces: bool,
    /// Whether the head is still to be printed.
    head: bool,
    /// Those of earlier pages.
    widths: Vec<usize>,
    printed: usize,
}

impl Printer {
    fn new(arguments: &Arguments) -> Self {
        let (output, Listing { all_namespaces: namespaces, no_headers }) = (arguments.output, arguments.listing);
        Self { output, namespaces, head: !no_headers, widths: Vec::new(), printed: 0 }
    }

    fn page(&mut self, items: &[Value], now: Timestamp) -> String {
        let mut text = String::new();
        match self.output {
            Output::Json => {
                for item in items {
                    text.push_str(if self.printed == 0 { "{\"items\":[\n" } else { ",\n" });
                    text.push_str(&raw_json(&item.to_string()));
                    self.printed += 1;
                }
                return text;
            }
            Output::Name => items.iter().for_each(|item| {
                text.push_str(&reference(word(item, "fid")));
                text.push('\n');
            }),
            Output::Table | Output::Wide => self.rows(items, now).iter().for_each(|line| {
                text.push_str(line);
                text.push('\n');
            }),
        }
        self.printed += items.len();
        text
    }

    /// What comes after the last page.
    fn end(&self, next: Option<&str>) -> String {
        if self.output != Output::Json {
            return String::new();
        }
        let begin = if self.printed == 0 { "{\"items\":[" } else { "\n" };
        let next = next.map(|next| format!(",\"continue\":\"{next}\"")).unwrap_or_default();
        format!("{begin}]{next}}}\n")
    }

    fn rows(&mut self, items: &[Value], now: Timestamp) -> Vec<String> {
        if items.is_empty() {
            return Vec::new();
        }
        let (wide, namespaces) = (self.output == Output::Wide, self.namespaces);
        let cells = |first: &str, cells: [String; 6], more: [String; 4]| -> Vec<String> {
            let first = namespaces.then(|| first.to_string());
            first.into_iter().chain(cells).chain(more.into_iter().filter(|_| wide)).collect()
        };
        let mut rows = Vec::new();
        if std::mem::take(&mut self.head) {
            let head = ["NAME", "FID", "PHASE", "ATTEMPT", "ERROR", "AGE"].map(str::to_string);
            rows.push(cells("NAMESPACE", head, ["MODE", "OWNER", "GONE", "ENTRY POINT"].map(str::to_string)));
        }
        let since = |item: &Value, field| word(item, field).parse().map_or(String::new(), |at| age(at, now));
        for item in items {
            let text = |field| word(item, field).to_string();
            let attempt = item["attempt"].as_i64().unwrap_or_default().to_string();
            let main =
                [text("name"), text("fid"), text("phase"), attempt, text("errorType"), since(item, "creationTime")];
            let more = [text("executionMode"), text("owner"), since(item, "deletionTime"), text("entryPoint")];
            rows.push(cells(word(item, "namespace"), main, more));
        }
        let rows = text::padded(&rows, &mut self.widths).into_iter();
        rows.map(|cells| cells.join("  ").trim_end().to_string()).collect()
    }
}

/// A field that is a text; empty without one.
pub(super) fn word<'v>(item: &'v Value, field: &str) -> &'v str {
    item[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Arguments {
        let line = Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        line.unwrap_or_else(|e| panic!("{e}")).arguments
    }

    fn item(name: &str) -> Value {
        json!({ "fid": "6740c100aabbccddeeff0011", "namespace": "n", "name": name, "phase": "Failed", "attempt": 2,
            "errorType": "AgentFailed", "creationTime": "2026-01-01T00:00:00Z", "entryPoint": "e\u{1b}[2J",
            "executionMode": "Direct", "deletionTime": "2026-01-01T01:00:00Z" })
    }

    fn now() -> Timestamp {
        "2026-01-01T02:00:00Z".parse().unwrap()
    }

    #[test]
    fn flags_become_parameters() {
        let all = parse("--phase failed --entry-point e --owner o --since 1h --until 2026-01-01T00:00:00Z --search x");
        let found = parameters(&all, Some("n"), now());
        let expected = [
            ("namespace", "n"),
            ("phase", "Failed"),
            ("entryPoint", "e"),
            ("owner", "o"),
            ("since", "2026-01-01T01:00:00Z"),
            ("until", "2026-01-01T00:00:00Z"),
            ("search", "x"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name, value.to_string())));
        assert_eq!(parameters(&parse(""), None, now()), []);
        assert!(moment("yesterday").is_err() && moment("").is_err());
    }

    #[test]
    fn no_more_are_asked_for_than_are_wanted() {
        let mut left = Left::of(700);
        assert_eq!((left.page(), left.take(500), left.page()), (500, true, 200));
        assert_eq!((left.take(200), left.page()), (false, 1));
        let mut all = Left::of(0);
        assert_eq!((all.page(), all.take(100_000)), (500, true));
    }

    #[test]
    fn pages_have_one_head_and_nothing_in_them_acts() {
        let mut printer = Printer::new(&parse(""));
        assert_eq!(printer.page(&[], now()), "");
        let text = printer.page(&[item("x")], now());
        let expected = "NAME  FID                       PHASE   ATTEMPT  ERROR        AGE\n\
                        x     6740c100aabbccddeeff0011  Failed  2        AgentFailed  120m\n";
        assert_eq!(text, expected);
        assert!(printer.page(&[item("a-name")], now()).starts_with("a-name  6740"));
        let text = Printer::new(&parse("-A -o wide --no-headers")).page(&[item("x\u{202e}")], now());
        assert_eq!(text.split_whitespace().next(), Some("n"));
        assert!(text.contains(r"x\u{202e}") && text.ends_with("Direct    60m  e\\u{1b}[2J\n"), "{text}");
        assert_eq!(Printer::new(&parse("-o name")).page(&[item("x")], now()), "execution/6740c100aabbccddeeff0011\n");
    }

    #[test]
    fn a_list_in_pages_is_one_document() {
        for count in 0..3 {
            let mut printer = Printer::new(&parse("-o json"));
            let mut text: String = (0..count).map(|n| printer.page(&[item(&n.to_string())], now())).collect();
            text += &printer.end(Some("6740c100aabbccddeeff0011"));
            let read: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(read["items"].as_array().map(Vec::len), Some(count), "{text}");
            assert_eq!((read["continue"].as_str().map(str::len), text.contains('\u{1b}')), (Some(24), false));
        }
    }
}
