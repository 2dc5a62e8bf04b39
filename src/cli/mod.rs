//! The command line: one file a subcommand. The parts that several share: `options`, `request`,
//! `outcome`, `runtime`.

#![forbid(unsafe_code)]

mod backend;
mod bench;
mod calibrate;
mod chat;
mod completions;
mod config;
mod fetch;
mod generate;
mod healthcheck;
mod inspect;
mod load_progress;
mod metrics;
mod model_cache;
mod options;
mod outcome;
mod profile;
mod profile_source;
mod prompts;
mod request;
mod runtime;
mod serve;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use load_progress::LoadProgress;
pub use runtime::{Runtime, load};

/// Serves a language model and makes it faster without changing what it says.
///
/// Drafts are made by a subset of the model's own sublayers and verified by the whole model.
#[derive(Parser, Debug)]
#[command(name = "skipstone", version, propagate_version = true, max_term_width = 100)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::Serve),
    Generate(generate::Generate),
    Chat(chat::Chat),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Calibrate(calibrate::Calibrate),
    Profile(profile::Profile),
    Fetch(fetch::Fetch),
    Config(config::Config),
    Healthcheck(healthcheck::Healthcheck),
    Status(status::Status),
    Metrics(metrics::Metrics),
    Completions(completions::Completions),
}

// === impl CommandLine ===

impl CommandLine {
    /// Runs the subcommand. `Ok` carries the exit status: a command may succeed at saying that
    /// something is wrong.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(command) => command.run(),
            Command::Generate(command) => command.run(),
            Command::Chat(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Calibrate(command) => command.run(),
            Command::Profile(command) => command.run(),
            Command::Fetch(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Healthcheck(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Metrics(command) => command.run(),
            Command::Completions(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_flags_that_scripts_rely_on_are_taken() {
        let common = "--model m.gguf --max-new-tokens 9 --temperature 0.5 --seed 7 --speculation \
            static \
                      --skip-attention 3,4 --skip-mlp 3,4 --max-draft-tokens 4 --top-k 5 --top-p 0.9 --min-p 0.1 \
                      --repetition-penalty 1.1 --threads 2 --stop X --stop Y --ignore-eos --json";
        let failures: Vec<String> = [
            format!("generate --prompt hi --chat {common}"),
            format!("generate --prompt - {common}"),
            format!("generate --prompt-token-ids 1,2,3 {common}"),
            format!("generate --prompts-file p.jsonl --concurrency 4 {common}"),
            format!("chat --prompt hi {common}"),
            "chat".to_owned(),
            "serve --model m.gguf --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
             --openai-listen 127.0.0.1:0".to_owned(),
            "inspect --model m.gguf --json".to_owned(),
            "calibrate --model m.gguf --tokens 4096 --out m.profile --threads 2".to_owned(),
            "profile show --svg m.svg m.profile".to_owned(),
            "bench decode --model m.gguf --prompts p.jsonl --modes off,unified,adaptive \
             --max-new-tokens 9 --repeats 2 --json \
             --chart c.svg --csv c.csv --peer llama-cpp --python python3 --set engine.threads=2 --limit 1"
                .to_owned(),
            "fetch".to_owned(),
            format!("fetch hub:a/b/c.gguf@main --output models --sha256 {}", "0".repeat(64)),
            "config check --config a.toml".to_owned(),
            "config print --set server.listen=127.0.0.1:1".to_owned(),
            "healthcheck 127.0.0.1:50051".to_owned(),
            "status 127.0.0.1:9090 --token-file token --json --timeout 5".to_owned(),
            "metrics".to_owned(),
            "completions bash".to_owned(),
        ]
        .iter()
        .filter_map(|line| {
            let words = std::iter::once("skipstone").chain(line.split_whitespace());
            CommandLine::try_parse_from(words).err().map(|error| format!("{line}: {error}"))
        })
        .collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn prompts_exclude_each_other() {
        for line in [
            "generate",
            "generate --prompt a --prompt-token-ids 1",
            "generate --prompt a --concurrency 2",
        ] {
            let words = std::iter::once("skipstone").chain(line.split_whitespace());
            assert!(CommandLine::try_parse_from(words).is_err(), "{line}");
        }
    }
}
