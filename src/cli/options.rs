//! Flags that several subcommands share, and the settings they stand for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::config::{Configuration, Flag, Layers};

/// Where settings come from.
#[derive(Args, Clone, Default, Debug)]
pub(super) struct ConfigOptions {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = "SKIPSTONE_CONFIG")]
    config: Option<PathBuf>,
    /// Set any setting, as in --set engine.max_streams=4; `skipstone config print` lists them
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    assignments: Vec<(String, String)>,
}

/// Which model, on how many threads.
#[derive(Args, Clone, Default, Debug)]
pub(super) struct ModelOptions {
    /// Model file (GGUF), or what the mistral.rs backend takes; without it, the default model if
    /// `skipstone fetch` has fetched it
    #[arg(long, value_name = "PATH")]
    model: Option<String>,
    /// Longest prompt plus output, in tokens
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<usize>,
    /// Threads that compute [default: all available cores]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// Backend that runs the model [default: auto, the native engine where it knows the model]
    #[arg(long, value_name = "NAME", value_parser = ["auto", "native", "mistralrs"])]
    backend: Option<String>,
    /// Where the mistral.rs backend computes: cpu, cuda:N or metal [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// How to draft.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Speculation")]
pub(super) struct SpeculationOptions {
    /// Who drafts: off, static, adaptive or another policy; the output is the same [default:
    /// adaptive, or static if a skip list is given]
    #[arg(long, value_name = "POLICY")]
    speculation: Option<String>,
    /// Layers whose attention the draft skips, as in 3,4
    #[arg(long, value_name = "LAYERS")]
    skip_attention: Option<String>,
    /// Layers whose MLP the draft skips, as in 3,4
    #[arg(long, value_name = "LAYERS")]
    skip_mlp: Option<String>,
    /// Most tokens drafted before they are verified
    #[arg(long, value_name = "COUNT")]
    max_draft_tokens: Option<usize>,
}

/// How to choose tokens.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SamplingOptions {
    /// 0 is greedy: always the most likely token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep only this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "COUNT")]
    top_k: Option<u32>,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Drop tokens less likely than this fraction of the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Weaken tokens that were seen already; 1 is neutral
    #[arg(long, value_name = "FACTOR")]
    repetition_penalty: Option<f32>,
}

// === impl ConfigOptions ===

impl ConfigOptions {
    /// Merges and checks all layers. `flags` are those of the subcommand; they win over `--set`.
    pub(super) fn load(&self, flags: Vec<Flag>) -> anyhow::Result<Configuration> {
        let assigned =
            self.assignments.iter().map(|(key, value)| Flag::new(key, value, "the flag --set"));
        let configuration =
            Layers::of_process(self.config.clone(), assigned.chain(flags).collect()).load()?;
        Ok(configuration)
    }
}

// === impl ModelOptions ===

impl ModelOptions {
    pub(super) fn flags(&self) -> Vec<Flag> {
        flags([
            ("--model", "model.path", self.model.clone()),
            ("--context-length", "model.context_length", text(self.context_length)),
            ("--threads", "engine.threads", text(self.threads)),
            ("--backend", "engine.backend", self.backend.clone()),
            ("--device", "engine.device", self.device.clone()),
        ])
    }
}

// === impl SpeculationOptions ===

impl SpeculationOptions {
    pub(super) fn flags(&self) -> Vec<Flag> {
        // A skip list is a plan; adaptive drafting would choose its own.
        let lists_plan = self.skip_attention.is_some() || self.skip_mlp.is_some();
        let implied = || lists_plan.then(|| "static".to_owned());
        flags([
            ("--speculation", "speculation.policy", self.speculation.clone().or_else(implied)),
            ("--skip-attention", "speculation.skip_attention", self.skip_attention.clone()),
            ("--skip-mlp", "speculation.skip_mlp", self.skip_mlp.clone()),
            ("--max-draft-tokens", "speculation.max_draft_tokens", text(self.max_draft_tokens)),
        ])
    }
}

// === impl SamplingOptions ===

impl SamplingOptions {
    pub(super) fn flags(&self) -> Vec<Flag> {
        flags([
            ("--temperature", "sampling.temperature", text(self.temperature)),
            ("--top-k", "sampling.top_k", text(self.top_k)),
            ("--top-p", "sampling.top_p", text(self.top_p)),
            ("--min-p", "sampling.min_p", text(self.min_p)),
            ("--repetition-penalty", "sampling.repetition_penalty", text(self.repetition_penalty)),
        ])
    }
}

/// The flags that were given, each with its key.
pub(super) fn flags<const N: usize>(given: [(&str, &str, Option<String>); N]) -> Vec<Flag> {
    given
        .into_iter()
        .filter_map(|(flag, key, value)| Some(Flag::new(key, value?, format!("the flag {flag}"))))
        .collect()
}

/// Address at which to reach a server that listens on `listen`: one that listens everywhere is
/// asked on loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn text<T: ToString>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn assignment(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write KEY=VALUE, as in engine.max_streams=4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: Vec<Flag>) -> Configuration {
        Layers { flags, ..Layers::default() }.load().unwrap()
    }

    #[test]
    fn flags_reach_their_settings() {
        let mut flags = ModelOptions {
            model: Some("m.gguf".to_owned()),
            context_length: Some(512),
            threads: Some(2),
            ..ModelOptions::default()
        }
        .flags();
        flags.extend(
            SamplingOptions {
                temperature: Some(0.7),
                top_k: Some(40),
                top_p: Some(0.9),
                min_p: Some(0.05),
                repetition_penalty: Some(1.1),
            }
            .flags(),
        );
        let configuration = load(flags);
        let changed: Vec<String> = configuration
            .values()
            .iter()
            .filter(|value| value.origin().starts_with("the flag"))
            .map(|value| format!("{}={}", value.key(), value.value()))
            .collect();
        assert_eq!(
            changed,
            [
                "engine.threads=2",
                "model.context_length=512",
                "model.path=\"m.gguf\"",
                "sampling.min_p=0.05",
                "sampling.repetition_penalty=1.1",
                "sampling.temperature=0.7",
                "sampling.top_k=40",
                "sampling.top_p=0.9",
            ]
        );
    }

    #[test]
    fn a_skip_list_means_static_unless_a_policy_is_named() {
        for (policy, skip_mlp, expected) in [
            (None, None, "adaptive"),
            (None, Some("3,4"), "static"),
            (Some("off"), Some("3,4"), "off"),
        ] {
            let options = SpeculationOptions {
                speculation: policy.map(str::to_owned),
                skip_mlp: skip_mlp.map(str::to_owned),
                ..SpeculationOptions::default()
            };
            let configuration = load(options.flags());
            let speculation = &configuration.settings().speculation;
            assert_eq!(speculation.policy, expected, "{policy:?} {skip_mlp:?}");
            assert_eq!(speculation.skip_mlp.is_empty(), skip_mlp.is_none());
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in
            [("0.0.0.0:5", "127.0.0.1:5"), ("[::]:5", "[::1]:5"), ("10.0.0.1:5", "10.0.0.1:5")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn assignments_need_a_key() {
        assert_eq!(assignment("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert!(assignment("a.b").is_err());
        assert!(assignment("=c").is_err());
    }
}
