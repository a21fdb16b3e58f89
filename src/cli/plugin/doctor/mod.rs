//! `doctor`: whether an installation of koco can work, and what its caller may do. [`look`] reads what there is, [`judge`]
//! decides what that means; each line that is not well says what to do.

mod judge;
mod look;

use std::{io::Write, process::ExitCode};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    connect::Session,
    server::Access,
    text::{self, Colour, Progress, padded, paint},
};
use judge::{Line, Verdict};

pub(super) const HELP: &str = "\
What the caller may not read is shown as unknown: a user may find koco's own objects hidden.

Exit codes:
  0    nothing is wrong; there may be warnings, and what is unknown
  1    something is wrong
  2    wrong usage, or the API server can't be reached";

/// The exit code if nothing could be looked at.
pub(super) const TROUBLE: u8 = 2;

#[derive(Args)]
pub(super) struct Arguments {
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::new();
    progress.show("looking at the installation");
    let seen = look::all(session, &arguments.access).await?;
    progress.clear();
    let lines = judge::all(&seen);
    let mut out = std::io::stdout().lock();
    match arguments.output {
        Output::Json => writeln!(out, "{}", text::json(&lines.iter().map(document).collect()))?,
        Output::Table => table(&lines, text::colours()).iter().try_for_each(|line| writeln!(out, "{line}"))?,
    }
    let wrong = lines.iter().any(|line| line.verdict == Verdict::Wrong);
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn document(line: &Line) -> serde_json::Value {
    json!({ "verdict": line.verdict.as_str(), "subject": line.subject, "finding": line.finding, "advice": line.advice })
}

fn table(lines: &[Line], colours: bool) -> Vec<String> {
    let row = |line: &Line| {
        let advice = line.advice.as_ref().map(|advice| format!(". Do: {advice}")).unwrap_or_default();
        vec![line.verdict.as_str().to_string(), line.subject.clone(), format!("{}{advice}", line.finding)]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    let cells = padded(&rows, &mut Vec::new());
    let shown = cells.into_iter().zip(lines).map(|(mut cells, line)| {
        if let Some((cell, colour)) = cells.first_mut().zip(colour(line.verdict)).filter(|_| colours) {
            *cell = paint(cell, colour);
        }
        cells.join("  ").trim_end().to_string()
    });
    shown.collect()
}

fn colour(verdict: Verdict) -> Option<Colour> {
    match verdict {
        Verdict::Well => Some(Colour::Green),
        Verdict::Warning => Some(Colour::Yellow),
        Verdict::Wrong => Some(Colour::Red),
        Verdict::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_to_do() {
        let line = |verdict, advice: Option<&str>| Line {
            verdict,
            subject: "gateway".into(),
            finding: "f\u{1b}[2J".into(),
            advice: advice.map(str::to_string),
        };
        let lines = [line(Verdict::Well, None), line(Verdict::Wrong, Some("d"))];
        assert_eq!(table(&lines, false), [r"ok     gateway  f\u{1b}[2J", r"wrong  gateway  f\u{1b}[2J. Do: d"]);
        assert_eq!(table(&lines, true)[1], "\u{1b}[31mwrong\u{1b}[0m  gateway  f\\u{1b}[2J. Do: d");
    }
}
