//! The body of a streamed answer: server-sent events, one a step of the engine.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::paths::Paths;
use super::reply::Words;
use crate::server::running::Running;
use crate::server::status;
use crate::server::wire::generate_stream_response::Event as WireEvent;

/// Data of the last event.
const DONE: &str = "[DONE]";

/// A stream on its way. It owns the running request, so a client that goes away cancels it at once,
/// also while the engine has nothing to send.
struct Chunks {
    running: Running,
    words: Words,
    include_usage: bool,
    offset: usize,
    unsent: VecDeque<String>,
}

/// Streams what `running` brings.
pub(super) fn respond(running: Running, words: Words, include_usage: bool) -> Response {
    let chunks = Chunks { running, words, include_usage, offset: 0, unsent: VecDeque::new() };
    let events = stream::unfold(chunks, |mut chunks| async move {
        let data = chunks.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), chunks))
    });
    // Comments while a request waits or its prompt is long, so that nothing on the way takes the
    // connection for dead.
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

// === impl Chunks ===

impl Chunks {
    async fn next(&mut self) -> Option<String> {
        while self.unsent.is_empty() {
            match self.running.next().await? {
                Ok(event) => {
                    let message = self.running.reply.message(event);
                    message.event.into_iter().for_each(|event| self.word(event));
                }
                Err(error) => {
                    status::log(&error, &self.running.reply.id);
                    // The fields were checked before the stream began, so none is named.
                    let error = ApiError::of(&error, &Paths::default(), Duration::ZERO);
                    self.unsent.push_back(error.object().to_string());
                }
            }
        }
        self.unsent.pop_front()
    }

    fn word(&mut self, event: WireEvent) {
        match event {
            WireEvent::Started(_) => {
                self.words.opening().into_iter().for_each(|chunk| self.push(chunk))
            }
            WireEvent::Delta(delta) => {
                self.words
                    .step(delta, &mut self.offset)
                    .into_iter()
                    .for_each(|chunk| self.push(chunk));
            }
            WireEvent::Finished(end) => {
                self.push(self.words.closing(&end));
                if self.include_usage {
                    self.unsent.push_back(Value::Object(self.words.counts(&end)).to_string());
                }
                self.unsent.push_back(DONE.to_owned());
            }
        }
    }

    /// Queues a chunk; where token counts are to come, those before say that they don't have them.
    fn push(&mut self, mut chunk: Map<String, Value>) {
        if self.include_usage {
            chunk.insert("usage".to_owned(), Value::Null);
        }
        self.unsent.push_back(Value::Object(chunk).to_string());
    }
}
