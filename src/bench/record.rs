//! Results that are kept: a CSV file that grows by one line for each measured point.

use std::fs::OpenOptions;
use std::path::Path;

use serde::Serialize;

use super::machine::Machine;
use super::rows::{RowCurve, RowReport};

/// A line of the file: one engine, one row count.
#[derive(Clone, Serialize, Debug)]
pub struct RowRecord<'a> {
    /// Year-month-day.
    pub date: &'a str,
    /// Processor and cores.
    pub machine: String,
    /// The model's file name.
    pub model: &'a str,
    /// Name of the engine.
    pub engine: &'a str,
    /// Instruction set of its kernels; the peer does not say.
    pub instruction_set: &'a str,
    /// Threads.
    pub threads: usize,
    /// Positions before the rows.
    pub context: usize,
    /// Rows of the pass.
    pub rows: usize,
    /// Median seconds of a pass.
    pub seconds_median: f64,
    /// The same against one row.
    pub v: f64,
    /// Weight bytes over time.
    pub gigabytes_per_second: f64,
    /// Tokens a second of the timed prefill, the same on all lines of an engine.
    pub prefill_tokens_per_second: Option<f64>,
}

// === impl RowRecord ===

impl<'a> RowRecord<'a> {
    /// The lines of a report.
    pub fn all(report: &'a RowReport, machine: &Machine, date: &'a str) -> Vec<Self> {
        let lines = |curve: &'a RowCurve, instruction_set: &'a str| {
            let machine = machine.to_string();
            curve.rows.iter().map(move |point| Self {
                date,
                machine: machine.clone(),
                model: &report.model,
                engine: &curve.name,
                instruction_set,
                threads: report.threads,
                context: report.context,
                rows: point.rows,
                seconds_median: point.seconds_median,
                v: point.v,
                gigabytes_per_second: point.gigabytes_per_second,
                prefill_tokens_per_second: curve.prefill_tokens_per_second,
            })
        };
        let peer = report.peer.iter().flat_map(|peer| lines(peer, ""));
        lines(&report.ours, &report.instruction_set).chain(peer).collect()
    }
}

/// Appends `records` to the CSV file at `path`, which begins with a header when it is new.
///
/// # Errors
/// If the file can't be written.
pub fn append_csv(path: &Path, records: &[RowRecord<'_>]) -> csv::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let new = file.metadata()?.len() == 0;
    let mut writer = csv::WriterBuilder::new().has_headers(new).from_writer(file);
    records.iter().try_for_each(|record| writer.serialize(record))?;
    Ok(writer.flush()?)
}

/// Today in UTC, year-month-day.
pub fn today() -> String {
    time::OffsetDateTime::now_utc().date().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::rows::RowPoint;
    use super::*;

    fn curve(name: &str, prefill_tokens_per_second: Option<f64>) -> RowCurve {
        let point = RowPoint { rows: 4, seconds_median: 0.5, v: 1.25, gigabytes_per_second: 2.0 };
        RowCurve { name: name.to_owned(), rows: vec![point], prefill_tokens_per_second }
    }

    #[test]
    fn a_file_has_one_header_and_a_line_for_each_point() {
        let report = RowReport {
            model: "m.gguf".to_owned(),
            model_bytes: 100,
            load_seconds: 1.0,
            peak_resident_bytes: None,
            peak_resident_ratio: None,
            threads: 2,
            fork_join_microseconds: 1.0,
            context: 256,
            instruction_set: "avx2".to_owned(),
            ours: curve("ours", Some(10.0)),
            peer: Some(curve("theirs", None)),
        };
        let machine = Machine { processor: "A CPU".to_owned(), cores: 2 };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        for date in ["2026-01-02", "2026-01-03"] {
            append_csv(&path, &RowRecord::all(&report, &machine, date)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "date,machine,model,engine,instruction_set,threads,context,rows,seconds_median,v,gigabytes_per_second,\
                 prefill_tokens_per_second",
                "2026-01-02,\"A CPU, 2 cores\",m.gguf,ours,avx2,2,256,4,0.5,1.25,2.0,10.0",
                "2026-01-02,\"A CPU, 2 cores\",m.gguf,theirs,,2,256,4,0.5,1.25,2.0,",
                "2026-01-03,\"A CPU, 2 cores\",m.gguf,ours,avx2,2,256,4,0.5,1.25,2.0,10.0",
                "2026-01-03,\"A CPU, 2 cores\",m.gguf,theirs,,2,256,4,0.5,1.25,2.0,",
            ]
        );
    }

    #[test]
    fn dates_are_year_month_day() {
        let parts: Vec<usize> = today().split('-').map(str::len).collect();
        assert_eq!(parts, [4, 2, 2]);
    }
}
