//! `skipstone chat`: a conversation in the terminal that shows, turn by turn, what drafting
//! brought.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;

use super::load_progress::LoadBar;
use super::outcome::{Report, Summary, collect};
use super::prompts::prompt_text;
use super::request::{GenerationOptions, ModelShape, RequestTemplate};
use super::runtime::{Runtime, load};
use skipstone_engine::Finished;
use skipstone_model::text::{ChatMessage, Role};

const HELP: &str =
    "/reset forgets the conversation, /stats shows its figures, /quit ends it (as does Ctrl-D)";

/// Talk with the model; /quit, /reset and /stats are understood
#[derive(Args, Debug)]
pub(super) struct Chat {
    /// Say this and leave after the answer; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Instructions that come before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    options: GenerationOptions,
}

/// Request that a line of input makes.
#[derive(PartialEq, Eq, Debug)]
enum Input<'a> {
    Nothing,
    Quit,
    Reset,
    Stats,
    Unknown(&'a str),
    Say(&'a str),
}

/// Figures of the conversation so far.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Totals {
    turns: usize,
    tokens: usize,
    draft_tokens: usize,
    accepted_tokens: usize,
    /// Decode time in seconds, and what it would have been without drafting by the engine's
    /// estimate.
    seconds: f64,
    plain_seconds: f64,
}

struct Conversation<'a> {
    runtime: &'a Runtime,
    template: RequestTemplate,
    json: bool,
    /// Number of messages that /reset keeps: the system message, if there is one.
    kept: usize,
    messages: Vec<ChatMessage>,
    totals: Totals,
}

// === impl Chat ===

impl Chat {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let configuration = self.options.configuration(1)?;
        let runtime = load(configuration.settings(), &LoadBar::new())?;
        let template =
            self.options.template(configuration.settings(), ModelShape::from(&runtime))?;
        let messages: Vec<ChatMessage> = self
            .system
            .into_iter()
            .map(|content| ChatMessage { role: Role::System, content })
            .collect();
        let mut conversation = Conversation {
            runtime: &runtime,
            template,
            json: self.options.json,
            kept: messages.len(),
            messages,
            totals: Totals::default(),
        };
        match &self.prompt {
            Some(prompt) => conversation.turn(&prompt_text(prompt)?)?,
            None => conversation.converse()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl Conversation ===

impl Conversation<'_> {
    fn converse(&mut self) -> anyhow::Result<()> {
        let stdin = io::stdin();
        let for_people = stdin.is_terminal();
        if for_people {
            writeln!(io::stderr(), "{}. {HELP}", self.runtime.name)?;
        }
        let mut line = String::new();
        loop {
            if for_people {
                write!(io::stderr(), "> ")?;
            }
            line.clear();
            if stdin.lock().read_line(&mut line)? == 0 {
                return Ok(());
            }
            match Input::parse(&line) {
                Input::Nothing => {}
                Input::Quit => return Ok(()),
                Input::Reset => {
                    self.messages.truncate(self.kept);
                    self.totals = Totals::default();
                }
                Input::Stats => writeln!(io::stderr(), "{}", self.totals)?,
                Input::Unknown(command) => {
                    writeln!(io::stderr(), "{command} is not a command: {HELP}")?
                }
                Input::Say(text) => self.turn_or_complain(text)?,
            }
        }
    }

    /// A turn that fails, as by a full context, must not end the conversation.
    fn turn_or_complain(&mut self, text: &str) -> anyhow::Result<()> {
        let before = self.messages.len();
        match self.turn(text) {
            Err(error) if !error.is::<io::Error>() => {
                self.messages.truncate(before);
                writeln!(io::stderr(), "error: {error:#} (/reset starts again)")?;
                Ok(())
            }
            other => other,
        }
    }

    fn turn(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(ChatMessage { role: Role::User, content: text.to_owned() });
        let prompt = self.runtime.encode_chat(&self.messages)?;
        let id = format!("chat-{}", self.totals.turns);
        let stream = self.runtime.submit(self.template.build(id, prompt)?)?;
        let mut stdout = io::stdout().lock();
        let outcome = if self.json {
            collect(stream, &mut |_| Ok(()))?
        } else {
            collect(stream, &mut |text| {
                stdout.write_all(text.as_bytes())?;
                stdout.flush()
            })?
        };
        self.totals.add(&outcome.finished);
        self.messages.push(ChatMessage { role: Role::Assistant, content: outcome.text.clone() });
        if self.json {
            writeln!(stdout, "{}", serde_json::to_string(&Report::from(outcome))?)?;
        } else {
            writeln!(stdout)?;
            writeln!(io::stderr(), "[{}]", Summary(&outcome.finished))?;
        }
        Ok(())
    }
}

// === impl Input ===

impl<'a> Input<'a> {
    fn parse(line: &'a str) -> Self {
        match line.trim() {
            "" => Self::Nothing,
            "/quit" | "/exit" => Self::Quit,
            "/reset" => Self::Reset,
            "/stats" => Self::Stats,
            command if command.starts_with('/') => Self::Unknown(command),
            text => Self::Say(text),
        }
    }
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, finished: &Finished) {
        let seconds = finished.timing.decode.as_secs_f64();
        self.turns += 1;
        self.tokens += finished.usage.completion_tokens;
        self.draft_tokens += finished.speculation.draft_tokens;
        self.accepted_tokens += finished.speculation.accepted_tokens;
        self.seconds += seconds;
        self.plain_seconds += seconds * finished.speculation.estimated_speedup.unwrap_or(1.0);
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} turns, {} tokens", self.turns, self.tokens)?;
        if self.draft_tokens > 0 {
            let share = self.accepted_tokens as f64 / self.draft_tokens as f64 * 100.0;
            let (accepted, drafted) = (self.accepted_tokens, self.draft_tokens);
            write!(formatter, "; {accepted} of {drafted} drafted tokens accepted ({share:.0} %)")?;
        }
        if self.seconds > 0.0 {
            write!(formatter, "; speedup {:.2}", self.plain_seconds / self.seconds)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::testing::finished;
    use super::*;

    #[test]
    fn lines_are_commands_or_speech() {
        for (line, input) in [
            ("\n", Input::Nothing),
            ("/quit\n", Input::Quit),
            ("/exit", Input::Quit),
            (" /reset \n", Input::Reset),
            ("/stats\n", Input::Stats),
            ("/stat\n", Input::Unknown("/stat")),
            ("what is 1/2?\n", Input::Say("what is 1/2?")),
        ] {
            assert_eq!(Input::parse(line), input, "{line:?}");
        }
    }

    #[test]
    fn totals_weigh_speedups_by_time() {
        let mut totals = Totals::default();
        assert_eq!(totals.to_string(), "0 turns, 0 tokens");
        totals.add(&finished());
        let mut plain = finished();
        plain.speculation = skipstone_engine::SpeculationStats::default();
        totals.add(&plain);
        assert_eq!(
            totals.to_string(),
            "2 turns, 10 tokens; 3 of 4 drafted tokens accepted (75 %); speedup 1.12"
        );
    }
}
