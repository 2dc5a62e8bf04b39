//! Peers to compare with. llama.cpp as a peer: a child process that times its own passes when told
//! to, so that both engines alternate in one run.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use skipstone_model::TokenId;

/// An engine that decodes the prompts of `bench decode` in turn with our own.
pub trait DecodePeer {
    /// Its name.
    fn name(&self) -> &str;

    /// Decodes greedily after `prompt`, up to `max_new_tokens` tokens or the end of the sequence;
    /// the seconds between the first and the last token, and the number of tokens, the first
    /// included.
    ///
    /// # Errors
    /// The peer's own.
    fn generate(
        &mut self,
        prompt: &[TokenId],
        max_new_tokens: usize,
    ) -> Result<(f64, usize), PeerError>;
}

/// A child that answers one line a command.
pub struct Peer {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
}

/// A reason why there is no peer to compare with.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Python did not start.
    #[error(
        "can't start {python}: {source}; name an interpreter that has llama-cpp-python with \
         --python"
    )]
    Start {
        /// The interpreter.
        python: String,
        /// The reason.
        source: io::Error,
    },
    /// The child ended.
    #[error(
        "the peer ended; install llama-cpp-python for the interpreter that --python names, and \
         see its messages above"
    )]
    Ended,
    /// The child said something unexpected.
    #[error("the peer answered {0:?}, not a time in seconds")]
    Answer(String),
    /// The peer could not decode.
    #[error("the peer failed: {0}")]
    Failed(String),
}

/// The program that the child runs.
const PROGRAM: &str = include_str!("peer_llama_cpp.py");

// === impl Peer ===

impl Peer {
    /// Starts llama.cpp with `model` on `threads` threads and room for `capacity` positions.
    pub fn llama_cpp(
        python: &str,
        model: &Path,
        threads: usize,
        capacity: usize,
    ) -> Result<Self, PeerError> {
        let start = |source| PeerError::Start { python: python.to_owned(), source };
        let mut child = Command::new(python)
            .args(["-c", PROGRAM])
            .arg(model)
            .args([threads.to_string(), capacity.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(PeerError::Ended);
        };
        let mut peer = Self {
            child,
            commands,
            answers: BufReader::new(answers),
            name: "llama.cpp".to_owned(),
        };
        let ready = peer.line()?;
        let version =
            ready.strip_prefix("ready ").ok_or_else(|| PeerError::Answer(ready.clone()))?;
        peer.name = format!("llama.cpp (llama-cpp-python {version})");
        Ok(peer)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Clears the cache and evaluates `tokens` tokens, after one that wakes the threads; the
    /// seconds that took.
    pub fn context(&mut self, tokens: usize) -> Result<f64, PeerError> {
        self.ask(&format!("context {tokens}"))
    }

    /// Two passes over `rows` tokens after the context, logits for each; the seconds of the second.
    pub fn rows(&mut self, rows: usize) -> Result<f64, PeerError> {
        self.ask(&format!("rows {rows}"))
    }

    fn ask(&mut self, command: &str) -> Result<f64, PeerError> {
        writeln!(self.commands, "{command}").map_err(|_| PeerError::Ended)?;
        let answer = self.line()?;
        answer.parse().map_err(|_| PeerError::Answer(answer))
    }

    fn line(&mut self) -> Result<String, PeerError> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(length) if length > 0 => Ok(line.trim_end().to_owned()),
            _ => Err(PeerError::Ended),
        }
    }
}

impl DecodePeer for Peer {
    fn name(&self) -> &str {
        self.name()
    }

    fn generate(
        &mut self,
        prompt: &[TokenId],
        max_new_tokens: usize,
    ) -> Result<(f64, usize), PeerError> {
        let ids: Vec<String> = prompt.iter().map(TokenId::to_string).collect();
        writeln!(self.commands, "generate {max_new_tokens} {}", ids.join(","))
            .map_err(|_| PeerError::Ended)?;
        let answer = self.line()?;
        let parsed = answer
            .split_once(' ')
            .and_then(|(seconds, tokens)| Some((seconds.parse().ok()?, tokens.parse().ok()?)));
        parsed.ok_or(PeerError::Answer(answer))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has nothing to save; an error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
