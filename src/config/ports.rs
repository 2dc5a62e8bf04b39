//! The settings of the ports: where they listen, what they serve, and their limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::values::empty_is_unset;

/// The gRPC endpoint and its limits.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct ServerSettings {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Tokens generated when a request names no limit.
    pub max_new_tokens_default: usize,
    /// Longest prompt in bytes.
    pub max_prompt_bytes: usize,
    /// Largest gRPC message that is read, in bytes.
    pub max_message_bytes: usize,
    /// Most stop strings of one request.
    pub max_stop_strings: usize,
    /// Longest stop string in bytes.
    pub max_stop_string_bytes: usize,
    /// Most alternatives reported beside each token.
    pub max_top_logprobs: usize,
    /// gRPC streams of one connection.
    pub max_streams_per_connection: u32,
    /// Longest header list in bytes.
    pub max_header_list_bytes: u32,
    /// HTTP/2 flow-control window of one stream in bytes.
    pub stream_window_bytes: u32,
    /// Seconds that new requests are still taken after SIGTERM.
    pub withdrawal_grace_seconds: u64,
    /// Seconds that running streams may take to finish after that.
    pub drain_seconds: u64,
    /// Switch for gRPC reflection.
    pub reflection: Switch,
}

/// A switch for something that strangers should not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On where it can't harm, as on loopback addresses.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The OpenAI-compatible HTTP endpoint.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct OpenAiSettings {
    /// Whether it is served.
    pub enabled: bool,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The admin port: Prometheus metrics, health, and control.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct MetricsSettings {
    /// Whether it is served.
    pub enabled: bool,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The control service and the live page, on the address of the metrics.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct ControlSettings {
    /// Switch for both.
    pub serve: Switch,
    /// The file with the token that they ask for; `None`: they ask for none.
    #[serde(deserialize_with = "empty_is_unset")]
    pub token_file: Option<PathBuf>,
}

// === impl ServerSettings ===

impl ServerSettings {
    /// Time that new requests are still taken after SIGTERM, for load balancers to notice.
    pub fn withdrawal_grace(&self) -> Duration {
        Duration::from_secs(self.withdrawal_grace_seconds)
    }

    /// Time that running streams may take to finish after the grace.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// Whether reflection is served: on loopback it helps, on a network it tells strangers about
    /// the service.
    pub fn serves_reflection(&self) -> bool {
        self.reflection.decide(self.listen.ip().is_loopback())
    }
}

// === impl Switch ===

impl Switch {
    /// Whether to serve, where `auto` is what the circumstances say.
    pub(super) fn decide(self, auto: bool) -> bool {
        match self {
            Self::Auto => auto,
            Self::On => true,
            Self::Off => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn reflection_follows_the_address() {
        let mut server = Layers::default().load().unwrap().settings().server.clone();
        for (listen, reflection, served) in [
            ("127.0.0.1:1", Switch::Auto, true),
            ("[::1]:1", Switch::Auto, true),
            ("0.0.0.0:1", Switch::Auto, false),
            ("0.0.0.0:1", Switch::On, true),
            ("127.0.0.1:1", Switch::Off, false),
        ] {
            server.listen = listen.parse().unwrap();
            server.reflection = reflection;
            assert_eq!(server.serves_reflection(), served, "{listen} {reflection:?}");
        }
    }
}
