//! The numbers that bound what one client can ask for, and how long the server waits.

use std::time::Duration;

/// Bounds on requests, connections and the shutdown. The defaults are the documented ones.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// `max_new_tokens` of requests that name none; less where the context leaves less.
    pub max_new_tokens_default: usize,
    /// Bytes of a prompt's text, all messages of a chat together. Tokenising is not linear in them.
    pub max_prompt_bytes: usize,
    /// Messages of a chat.
    pub max_chat_messages: usize,
    /// Stop strings of a request.
    pub max_stop_strings: usize,
    /// Bytes of a stop string.
    pub max_stop_string_bytes: usize,
    /// Stop tokens of a request.
    pub max_stop_token_ids: usize,
    /// Alternatives for each token.
    pub max_top_logprobs: usize,
    /// Cap on a request's draft length.
    pub max_draft_tokens: usize,
    /// Deadline of requests that name none; `None` gives them none.
    pub default_deadline: Option<Duration>,
    /// Longest deadline; longer ones, and none, are cut to it. `None` does not cut.
    pub max_deadline: Option<Duration>,
    /// Time that a refused client is asked to wait before it tries again.
    pub retry_after: Duration,
    /// Requests tokenised at the same time; the others wait.
    pub concurrent_tokenisers: usize,
    /// Calls open on one connection.
    pub max_streams_per_connection: u32,
    /// Bytes of a request message, compressed or not.
    pub max_message_bytes: usize,
    /// Bytes of a call's metadata.
    pub max_header_list_bytes: u32,
    /// Unread bytes that a client may send on one call.
    pub stream_window_bytes: u32,
    /// Unread bytes that a client may send on one connection.
    pub connection_window_bytes: u32,
    /// Time that a new connection may stay silent.
    pub handshake_timeout: Duration,
    /// Time that the body of an HTTP request may take to arrive.
    pub body_timeout: Duration,
    /// An idle connection is probed this often, and dropped if it does not answer for as long
    /// again.
    pub keep_alive: Duration,
    /// Time at shutdown that new requests are still taken, for load balancers to notice that health
    /// is gone.
    pub withdrawal_grace: Duration,
    /// Time at shutdown that running calls may take to finish.
    pub drain: Duration,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_new_tokens_default: 256,
            max_prompt_bytes: 256 * 1024,
            max_chat_messages: 512,
            max_stop_strings: 16,
            max_stop_string_bytes: 256,
            max_stop_token_ids: 64,
            max_top_logprobs: 20,
            max_draft_tokens: 16,
            default_deadline: None,
            max_deadline: None,
            retry_after: Duration::from_secs(1),
            concurrent_tokenisers: 2,
            max_streams_per_connection: 64,
            max_message_bytes: 1024 * 1024,
            max_header_list_bytes: 16 * 1024,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(20),
            withdrawal_grace: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}
