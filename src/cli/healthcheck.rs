//! `skipstone healthcheck`: asks a running server whether it serves, for containers without a gRPC
//! client of their own.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::options::{ConfigOptions, reachable};

/// Ask a running server whether it serves; the exit status says it
#[derive(Args, Debug)]
pub(super) struct Healthcheck {
    /// Address of the gRPC service [default: server.listen of the settings]
    address: Option<SocketAddr>,
    /// Ask about one service, as in skipstone.v1.GenerationService, instead of the whole server
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// Give up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    timeout: u64,
    #[command(flatten)]
    config: ConfigOptions,
}

// === impl Healthcheck ===

impl Healthcheck {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let address = match self.address {
            Some(address) => address,
            None => reachable(self.config.load(Vec::new())?.settings().server.listen),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let limit = Duration::from_secs(self.timeout);
        let status = runtime
            .block_on(async { tokio::time::timeout(limit, ask(address, self.service)).await })
            .with_context(|| format!("{address} did not answer within {} s", self.timeout))??;
        match status {
            ServingStatus::Serving => Ok(ExitCode::SUCCESS),
            other => bail!("{address} answered {}", other.as_str_name()),
        }
    }
}

async fn ask(address: SocketAddr, service: String) -> anyhow::Result<ServingStatus> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await
        .with_context(|| format!("can't reach {address}; is the server running?"))?;
    let reply =
        HealthClient::new(channel).check(HealthCheckRequest { service: service.clone() }).await;
    match reply {
        Ok(reply) => Ok(reply.into_inner().status()),
        Err(status) if status.code() == tonic::Code::NotFound => {
            bail!("{address} knows no service {service:?}")
        }
        Err(status) => Err(status).with_context(|| format!("{address} can't answer health checks")),
    }
}
