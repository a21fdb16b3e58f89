//! `list`: the jobs of a namespace or of all, as the API server's own table. It sends page by page what the columns show,
//! selected by label and phase, and each page is printed before the next is asked for.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ListMeta, jiff::Timestamp};
use kube::{Client, Resource, api::ListParams, core::Request};
use serde::Deserialize;
use serde_json::Value;

use super::{
    connect::Session,
    output::{reference, shown},
    paging::Pages,
    select::{in_phases, parse_phase},
    tables::{Row, Table, Tables},
    text::{self, Colour, say},
    yaml,
};
use crate::{
    api::{AgentJob, Phase, Seconds},
    platform::clock,
};

/// How many whole objects a page has: inputs may be large.
const PAGE: u32 = 50;

/// What lists of jobs and of executions have in common.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Listing {
    /// List all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Print no head
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    listing: Listing,
    /// Those with these labels, such as team=x,tier!=y
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Those in one of these phases, such as Running,Paused
    #[arg(long, value_name = "PHASE", value_delimiter = ',', value_parser = parse_phase)]
    phase: Vec<Phase>,
    /// Those that were created within this time, such as 90m or 24h
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse)]
    since: Option<Duration>,
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Table,
    /// With more columns: workflow and pod
    Wide,
    Name,
    Json,
    Yaml,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let namespace = (!arguments.listing.all_namespaces).then_some(session.namespace.as_str());
    let url = AgentJob::url_path(&(), namespace);
    let mut params = ListParams { label_selector: arguments.selector.clone(), ..ListParams::default() };
    if !arguments.phase.is_empty() {
        params = params.fields(&in_phases(&arguments.phase));
    }
    let limit = arguments.since.map(|age| clock::now().checked_sub(age).unwrap_or(Timestamp::MIN));
    match arguments.output {
        Output::Json | Output::Yaml => objects(session, &url, params, limit, arguments.output).await,
        Output::Table | Output::Wide | Output::Name => rows(session, url, params, limit, arguments).await,
    }
}

async fn rows(
    session: &Session,
    url: String,
    params: ListParams,
    limit: Option<Timestamp>,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let mut tables = Tables::new(session.client(), url, params);
    let mut printer = Printer {
        wide: arguments.output == Output::Wide,
        namespaces: arguments.listing.all_namespaces,
        head: !arguments.listing.no_headers,
        colours: text::colours(),
        widths: Vec::new(),
    };
    let mut found = false;
    while let Some(mut table) = tables.next().await.map_err(|e| session.explain(e, ""))? {
        table.rows.retain(|row| is_since(row, limit));
        found |= !table.rows.is_empty();
        let mut out = io::stdout().lock();
        if arguments.output == Output::Name {
            let mut names = table.rows.iter().filter_map(|row| row.object.metadata.name.as_deref());
            names.try_for_each(|name| writeln!(out, "{}", reference(name)))?;
        } else {
            printer.lines(&table).iter().try_for_each(|line| writeln!(out, "{line}"))?;
        }
        // A page is there at once, also in a pipe.
        out.flush()?;
    }
    if !found && arguments.listing.all_namespaces {
        say("No AgentJobs found");
    } else if !found {
        say(format_args!("No AgentJobs found in {} namespace.", session.namespace));
    }
    Ok(())
}

fn is_since(row: &Row, limit: Option<Timestamp>) -> bool {
    let created = row.object.metadata.creation_timestamp.as_ref().map(|t| t.0);
    limit.is_none_or(|limit| created.is_none_or(|created| created >= limit))
}

/// How the API server's rows become lines.
struct Printer {
    wide: bool,
    /// Whether there is a column for it.
    namespaces: bool,
    /// Whether the head is still to be printed.
    head: bool,
    colours: bool,
    /// Those of earlier pages.
    widths: Vec<usize>,
}

impl Printer {
    fn lines(&mut self, table: &Table) -> Vec<String> {
        if table.rows.is_empty() {
            return Vec::new();
        }
        let columns = table.column_definitions.iter().enumerate();
        let columns: Vec<_> = columns.filter(|(_, c)| self.wide || c.priority == 0).collect();
        let first = |word: &str| self.namespaces.then(|| word.to_string());
        let mut rows = Vec::new();
        if self.head {
            let names = columns.iter().map(|(_, c)| c.name.to_uppercase());
            rows.push(first("NAMESPACE").into_iter().chain(names).collect());
        }
        let head = std::mem::take(&mut self.head);
        for row in &table.rows {
            let cells = columns.iter().map(|(at, _)| cell(row.cells.get(*at)));
            let namespace = row.object.metadata.namespace.as_deref().unwrap_or_default();
            rows.push(first(namespace).into_iter().chain(cells).collect());
        }
        let phase = columns.iter().position(|(_, c)| c.name == "Phase").map(|at| at + usize::from(self.namespaces));
        let mut lines = Vec::new();
        for (n, mut cells) in text::padded(&rows, &mut self.widths).into_iter().enumerate() {
            let cell = phase.and_then(|at| cells.get_mut(at)).filter(|_| self.colours && (n > 0 || !head));
            if let Some(cell) = cell
                && let Some(colour) = colour(cell.trim_end())
            {
                *cell = text::paint(cell, colour);
            }
            lines.push(cells.join("  ").trim_end().to_string());
        }
        lines
    }
}

/// A cell as kubectl shows it.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn colour(phase: &str) -> Option<Colour> {
    match parse_phase(phase).ok()? {
        Phase::Running => Some(Colour::Blue),
        Phase::Succeeded => Some(Colour::Green),
        Phase::Failed => Some(Colour::Red),
        Phase::Paused | Phase::Retrying | Phase::Cancelling => Some(Colour::Yellow),
        Phase::Pending | Phase::Cancelled => None,
    }
}

/// A page of whole objects.
#[derive(Deserialize)]
struct Objects {
    #[serde(default)]
    metadata: ListMeta,
    items: Vec<Value>,
}

async fn page(client: &Client, url: &str, params: &ListParams) -> Result<(ListMeta, Vec<Value>), kube::Error> {
    let request = Request::new(url).list(params).map_err(kube::Error::BuildRequest)?;
    let page = client.request::<Objects>(request).await?;
    Ok((page.metadata, page.items))
}

/// Prints a list as kubectl does, but each page by itself.
async fn objects(
    session: &Session,
    url: &str,
    params: ListParams,
    limit: Option<Timestamp>,
    output: Output,
) -> anyhow::Result<()> {
    let (client, mut pages) = (session.client(), Pages::new(params.limit(PAGE)));
    let mut list = List { json: output == Output::Json, begun: false };
    while let Some(items) =
        pages.next(async |params| page(&client, url, params).await).await.map_err(|e| session.explain(e, ""))?
    {
        let mut out = io::stdout().lock();
        for item in items.iter().filter(|item| was_made_since(item, limit)) {
            write!(out, "{}", list.item(item))?;
        }
    }
    write!(io::stdout(), "{}", list.end())?;
    Ok(())
}

fn was_made_since(item: &Value, limit: Option<Timestamp>) -> bool {
    let created = item.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    limit.is_none_or(|limit| created.is_none_or(|created| created >= limit))
}

/// The text of a list of objects, in parts.
struct List {
    json: bool,
    begun: bool,
}

impl List {
    fn item(&mut self, object: &Value) -> String {
        let (object, first) = (shown(object), !std::mem::replace(&mut self.begun, true));
        if self.json {
            let lines: Vec<_> = text::pretty_json(&object).lines().map(|line| format!("        {line}")).collect();
            let before = if first { "{\n    \"apiVersion\": \"v1\",\n    \"items\": [\n" } else { ",\n" };
            format!("{before}{}", lines.join("\n"))
        } else {
            let before = if first { "apiVersion: v1\nitems:\n" } else { "" };
            format!("{before}{}", yaml::item(&object, 0))
        }
    }

    fn end(&self) -> &'static str {
        match (self.json, self.begun) {
            (true, true) => "\n    ],\n    \"kind\": \"List\"\n}\n",
            (true, false) => "{\n    \"apiVersion\": \"v1\",\n    \"items\": [],\n    \"kind\": \"List\"\n}\n",
            (false, true) => "kind: List\n",
            (false, false) => "apiVersion: v1\nitems: []\nkind: List\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(rows: &[(&str, &str, &str)]) -> Table {
        let row = |(namespace, name, phase): &(&str, &str, &str)| {
            json!({ "cells": [name, phase, 1, null], "object": { "metadata": { "name": name, "namespace": namespace,
                "creationTimestamp": "2026-01-01T00:00:00Z" } } })
        };
        serde_json::from_value(json!({
            "columnDefinitions": [{ "name": "Name", "priority": 0 }, { "name": "Phase", "priority": 0 },
                { "name": "Attempt", "priority": 0 }, { "name": "Workflow", "priority": 1 }],
            "rows": rows.iter().map(row).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    fn printer(wide: bool, namespaces: bool, colours: bool) -> Printer {
        Printer { wide, namespaces, head: true, colours, widths: Vec::new() }
    }

    #[test]
    fn pages_have_one_head_and_columns_that_only_grow() {
        let mut printer = printer(false, false, false);
        assert_eq!(printer.lines(&table(&[])), Vec::<String>::new());
        assert_eq!(printer.lines(&table(&[("n", "a", "Running")])), ["NAME  PHASE    ATTEMPT", "a     Running  1"]);
        assert_eq!(printer.lines(&table(&[("n", "b", "")])), ["b              1"]);
        assert_eq!(printer.lines(&table(&[("n", "a-name", "Paused")])), ["a-name  Paused   1"]);
    }

    #[test]
    fn namespaces_and_more_columns_are_shown_on_request() {
        let lines = printer(true, true, false).lines(&table(&[("n", "a\u{1b}[2J", "Failed")]));
        assert_eq!(lines[0], "NAMESPACE  NAME        PHASE   ATTEMPT  WORKFLOW");
        assert_eq!(lines[1], r"n          a\u{1b}[2J  Failed  1");
    }

    #[test]
    fn only_phases_have_a_colour_and_only_where_it_is_wanted() {
        let lines = printer(false, true, true).lines(&table(&[("n", "Failed", "Failed"), ("n", "b", "Pending")]));
        assert!(!lines[0].contains('\u{1b}') && !lines[2].contains('\u{1b}'), "{lines:?}");
        assert_eq!(lines[1], "n          Failed  \u{1b}[31mFailed \u{1b}[0m  1");
    }

    #[test]
    fn jobs_that_are_older_are_left_out() {
        let table = table(&[("n", "a", "")]);
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(is_since(&table.rows[0], None) && is_since(&table.rows[0], at("2026-01-01T00:00:00Z")));
        assert!(!is_since(&table.rows[0], at("2026-01-01T00:00:01Z")));
        let object = json!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" } });
        assert!(was_made_since(&object, None) && !was_made_since(&object, at("2026-01-01T00:00:01Z")));
    }

    #[test]
    fn a_list_in_parts_is_one_document() {
        let objects =
            [json!({ "metadata": { "name": "a", "managedFields": [1] }, "x": "\u{1b}\n" }), json!({ "b": [] })];
        for number in 0..=2 {
            for json in [true, false] {
                let mut list = List { json, begun: false };
                let mut text: String = objects.iter().take(number).map(|o| list.item(o)).collect();
                text += list.end();
                let read: Value =
                    if json { serde_json::from_str(&text).unwrap() } else { serde_yaml_ng::from_str(&text).unwrap() };
                let items: Vec<_> = objects.iter().take(number).map(shown).collect();
                assert_eq!(read, json!({ "apiVersion": "v1", "kind": "List", "items": items }), "{text}");
                assert!(!text.contains('\u{1b}') && !text.contains("managedFields"));
            }
        }
    }
}
