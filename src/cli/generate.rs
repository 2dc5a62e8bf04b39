//! `skipstone generate`: continues one prompt, or many at once, without a server.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::load_progress::LoadBar;
use super::outcome::{Report, Summary, collect};
use super::prompts::{PromptRecord, prompt_text, read_prompts, token_ids};
use super::request::{GenerationOptions, ModelShape, RequestTemplate};
use super::runtime::{Runtime, load};
use skipstone_model::TokenId;
use skipstone_model::text::{ChatMessage, Role};

/// Continue a prompt, or many at once
#[derive(Args, Debug)]
pub(super) struct Generate {
    #[command(flatten)]
    input: Input,
    /// Take the prompt as a user's message and render it with the model's chat template
    #[arg(long, conflicts_with = "prompt_token_ids")]
    chat: bool,
    /// With --prompts-file: prompts that run at once, in one engine
    #[arg(long, value_name = "COUNT", default_value = "1", requires = "prompts_file")]
    concurrency: NonZeroUsize,
    #[command(flatten)]
    options: GenerationOptions,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Input {
    /// The prompt; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// The prompt as token ids, as in 1,2,3
    #[arg(long, value_name = "IDS", value_parser = parse_token_ids)]
    prompt_token_ids: Option<TokenIds>,
    /// Many prompts: one JSON object a line, with id, prompt and perhaps category; prints one JSON
    /// object a line
    #[arg(long, value_name = "FILE", requires = "json")]
    prompts_file: Option<PathBuf>,
}

/// A list that clap takes as one value.
#[derive(Clone, Debug)]
struct TokenIds(Vec<TokenId>);

/// One line of the output for a prompts file.
#[derive(Serialize)]
struct Line {
    id: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    #[serde(flatten)]
    result: LineResult,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LineResult {
    Finished(Box<Report>),
    Failed { error: String },
}

/// Writes lines in the order of their numbers, whatever order they come in.
struct OrderedLines<W> {
    output: W,
    next: usize,
    early: std::collections::BTreeMap<usize, String>,
}

// === impl Generate ===

impl Generate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let configuration = self.options.configuration(self.concurrency.get())?;
        let records = self.input.prompts_file.as_deref().map(read_prompts).transpose()?;
        let runtime = load(configuration.settings(), &LoadBar::new())?;
        let template =
            self.options.template(configuration.settings(), ModelShape::from(&runtime))?;
        match records {
            Some(records) => self.run_many(&runtime, &template, &records),
            None => self.run_one(&runtime, &template),
        }
    }

    fn run_one(&self, runtime: &Runtime, template: &RequestTemplate) -> anyhow::Result<ExitCode> {
        let prompt = match (&self.input.prompt_token_ids, &self.input.prompt) {
            (Some(ids), _) => ids.0.clone(),
            (None, Some(prompt)) => self.encode(runtime, &prompt_text(prompt)?)?,
            (None, None) => return Err(anyhow!("no prompt is given; name one with --prompt")),
        };
        let stream = runtime.submit(template.build("generate".to_owned(), prompt)?)?;
        let mut stdout = io::stdout().lock();
        if self.options.json {
            let outcome = collect(stream, &mut |_| Ok(()))?;
            writeln!(stdout, "{}", serde_json::to_string(&Report::from(outcome))?)?;
        } else {
            let outcome = collect(stream, &mut |text| {
                stdout.write_all(text.as_bytes())?;
                stdout.flush()
            })?;
            writeln!(stdout)?;
            writeln!(io::stderr(), "{}", Summary(&outcome.finished))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn run_many(
        &self,
        runtime: &Runtime,
        template: &RequestTemplate,
        records: &[PromptRecord],
    ) -> anyhow::Result<ExitCode> {
        let lines = Mutex::new(OrderedLines::new(io::stdout()));
        let next = AtomicUsize::new(0);
        let failed = AtomicUsize::new(0);
        let work = || -> anyhow::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(record) = records.get(number) else { return Ok(()) };
                let result = match self.one_of_many(runtime, template, record) {
                    Ok(report) => LineResult::Finished(Box::new(report)),
                    Err(error) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        LineResult::Failed { error: format!("{error:#}") }
                    }
                };
                let line =
                    Line { id: record.id.clone(), category: record.category.clone(), result };
                let line = serde_json::to_string(&line)?;
                lines
                    .lock()
                    .map_err(|_| anyhow!("another prompt's thread failed"))?
                    .put(number, line)?;
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.concurrency.get()).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().map_err(|_| anyhow!("a prompt's thread failed"))?
            })
        })?;
        match failed.into_inner() {
            0 => Ok(ExitCode::SUCCESS),
            failed => {
                writeln!(
                    io::stderr(),
                    "{failed} of {} prompts failed; their lines say why",
                    records.len()
                )?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn one_of_many(
        &self,
        runtime: &Runtime,
        template: &RequestTemplate,
        record: &PromptRecord,
    ) -> anyhow::Result<Report> {
        let prompt = self.encode(runtime, &record.prompt)?;
        let stream = runtime.submit(template.build(record.id.to_string(), prompt)?)?;
        Ok(Report::from(collect(stream, &mut |_| Ok(()))?))
    }

    fn encode(&self, runtime: &Runtime, prompt: &str) -> anyhow::Result<Vec<TokenId>> {
        if self.chat {
            runtime.encode_chat(&[ChatMessage { role: Role::User, content: prompt.to_owned() }])
        } else {
            runtime.encode_text(prompt)
        }
    }
}

fn parse_token_ids(argument: &str) -> Result<TokenIds, String> {
    token_ids(argument).map(TokenIds)
}

// === impl OrderedLines ===

impl<W: Write> OrderedLines<W> {
    fn new(output: W) -> Self {
        Self { output, next: 0, early: std::collections::BTreeMap::new() }
    }

    /// Takes line `number`, counted from 0, and writes every line that is due.
    fn put(&mut self, number: usize, line: String) -> io::Result<()> {
        self.early.insert(number, line);
        while let Some(line) = self.early.remove(&self.next) {
            writeln!(self.output, "{line}")?;
            self.next += 1;
        }
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Outcome, testing::finished};
    use super::*;

    #[test]
    fn lines_come_out_in_order() {
        let mut lines = OrderedLines::new(Vec::new());
        for (number, written) in [(2, ""), (0, "0\n"), (3, "0\n"), (1, "0\n1\n2\n3\n")] {
            lines.put(number, number.to_string()).unwrap();
            assert_eq!(String::from_utf8_lossy(&lines.output), written);
        }
    }

    #[test]
    fn a_line_is_the_report_with_the_prompt_s_name() {
        let outcome = Outcome { text: "x".to_owned(), token_ids: vec![7], finished: finished() };
        let report = Report::from(outcome);
        let alone = serde_json::to_value(&report).unwrap();
        let result = LineResult::Finished(Box::new(report));
        let line = Line { id: serde_json::json!(82), category: Some("qa".to_owned()), result };
        let mut with_names = serde_json::to_value(&line).unwrap();
        let fields = with_names.as_object_mut().unwrap();
        assert_eq!(fields.remove("id"), Some(serde_json::json!(82)));
        assert_eq!(fields.remove("category"), Some(serde_json::json!("qa")));
        assert_eq!(with_names, alone);

        let failed = LineResult::Failed { error: "too long".to_owned() };
        let line = Line { id: serde_json::json!("b"), category: None, result: failed };
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"id":"b","error":"too long"}"#);
    }
}
