//! The format in which a scraper gets the metrics: OpenMetrics where it asks for that, as Prometheus does; else
//! Prometheus' older text format, in which a counter's type is that of the name with `_total`.

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Format {
    /// The one that the header `Accept` prefers; the older one if it prefers none.
    pub fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
                let q = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f64>().ok());
                q.filter(|_| named)
            });
            ranges.fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// The header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// A text in OpenMetrics in this format.
    pub(super) fn of(self, text: String) -> String {
        if self == Self::OpenMetrics { text } else { text.lines().filter_map(older).collect() }
    }
}

/// A line of OpenMetrics in the older format. There a type is that of samples, not of their family; HELP, which comes
/// before the type is known, is left out, as are UNIT and EOF, which that format doesn't have.
fn older(line: &str) -> Option<String> {
    let kept = Some(format!("{line}\n"));
    let Some(comment) = line.strip_prefix("# ") else { return kept };
    let mut words = comment.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("TYPE"), Some(name), Some("counter")) => Some(format!("# TYPE {name}_total counter\n")),
        (Some("TYPE"), Some(name), Some("info")) => Some(format!("# TYPE {name}_info gauge\n")),
        (Some("TYPE"), Some(name), Some("unknown")) => Some(format!("# TYPE {name} untyped\n")),
        (Some("TYPE"), ..) => kept,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        use Format::{OpenMetrics, Text};
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, wanted) in [
            (prometheus, OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            ("text/plain;version=0.0.4", Text),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.1", Text),
            ("application/openmetrics-text;q=0", Text),
            ("*/*", Text),
            ("", Text),
        ] {
            assert_eq!(Format::accepted(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn in_the_older_format_types_are_those_of_samples() {
        let open = "# HELP a_b Help.\n# TYPE a_b counter\na_b_total 1\n# HELP c Help.\n# TYPE c info\nc_info{d=\"e\"} 1\n\
                    # TYPE f_seconds histogram\n# UNIT f_seconds seconds\nf_seconds_sum 0.0\n# EOF\n";
        let text = "# TYPE a_b_total counter\na_b_total 1\n# TYPE c_info gauge\nc_info{d=\"e\"} 1\n\
                    # TYPE f_seconds histogram\nf_seconds_sum 0.0\n";
        assert_eq!(Format::Text.of(open.into()), text);
        assert_eq!(Format::OpenMetrics.of(open.into()), open);
    }
}
