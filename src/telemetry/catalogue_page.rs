//! The catalogue as a page for people: docs/metrics.md.

use std::fmt::Write;

use skipstone_engine::drafting::POLICIES;
use skipstone_engine::record::catalogue::{ALL, Kind, Metric};
use skipstone_engine::record::labels::{self, OTHER_POLICY, Values};

const HEAD: &str = "\
# Metrics

<!-- Written by `skipstone metrics`; a test compares them. Change crates/engine/src/record/catalogue.rs or labels.rs and run it again. -->

What `/metrics` on the admin port (`metrics.listen`) shows, in Prometheus' text format. Names end in their base unit, counters in `_total`;
rates and percentages belong into queries ([the dashboards](operations.md) have them). The names `spec_decode_num_*` are those that other
serving engines export. No label holds anything of a request, session or prompt; each has the few values listed below.
Reasons for the end of a generation are called as on the wire (`FINISH_REASON_END_OF_SEQUENCE`), in lower case.

| metric | kind | labels | |
|---|---|---|---|
";

/// All metrics and their labels, as Markdown.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Can't fail: the page is in memory.
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            labels.join(", "),
            metric.help
        );
    }
    page.push_str("\n## Labels\n\n| label | of | values |\n|---|---|---|\n");
    for (label, values, metrics) in described_labels() {
        let _ = writeln!(page, "| `{label}` | {} | {} |", metrics.join(", "), describe(values));
    }
    page.push_str("\n## Buckets\n\n| histogram | upper bounds |\n|---|---|\n");
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            let bounds: Vec<String> = buckets.iter().map(f64::to_string).collect();
            let _ = writeln!(page, "| `{}` | {} |", metric.name, bounds.join(", "));
        }
    }
    page
}

/// Each label with its values and the metrics that have it, in the order of the catalogue.
fn described_labels() -> Vec<(&'static str, Values, Vec<String>)> {
    let mut found: Vec<(&'static str, Values, Vec<String>)> = Vec::new();
    let all = ALL
        .iter()
        .flat_map(|metric: &Metric| metric.labels.iter().map(move |label| (metric, *label)));
    for (metric, label) in all {
        let Some(values) = labels::values(metric, label) else { continue };
        let name = format!("`{}`", metric.name);
        match found
            .iter_mut()
            .find(|(known, of, _)| *known == label && describe(*of) == describe(values))
        {
            Some((_, _, metrics)) => metrics.push(name),
            None => found.push((label, values, vec![name])),
        }
    }
    found
}

fn describe(values: Values) -> String {
    match values {
        Values::Words(words) => {
            let described = words.iter().map(|(word, meaning)| match *meaning {
                "" => format!("`{word}`"),
                meaning => format!("`{word}` ({meaning})"),
            });
            described.collect::<Vec<_>>().join(", ")
        }
        Values::Below(end, meaning) => format!("0 to {}: {meaning}", end - 1),
        Values::Fixed(meaning) => format!("one a process: {meaning}"),
        Values::Policies => {
            let known = POLICIES.iter().map(|entry| format!("`{}`", entry.name));
            let other = format!("`{OTHER_POLICY}` (one that is not built in)");
            known.chain([other]).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == markdown(),
            "docs/metrics.md is old; run `skipstone metrics >docs/metrics.md`"
        );
    }
}
