//! `skipstone status`: asks the control service of a running replica what it is and does.

mod table;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use super::options::{ConfigOptions, reachable};
use crate::server::wire;
use crate::server::wire::control_service_client::ControlServiceClient;
use table::Table;

/// Ask a running server what it is and does: model, running streams and their plans, acceptance,
/// speedup
#[derive(Args, Debug)]
pub(super) struct Status {
    /// Address of the admin port [default: metrics.listen of the settings]
    address: Option<SocketAddr>,
    /// File with the token that the server asks for [default: control.token_file of the settings]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print all that the server reports as one JSON object
    #[arg(long)]
    json: bool,
    /// Give up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    timeout: u64,
    #[command(flatten)]
    config: ConfigOptions,
}

/// Report of a replica.
#[derive(Serialize, Debug)]
struct Told {
    server: wire::GetServerResponse,
    activity: wire::GetActivityResponse,
}

// === impl Status ===

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let configuration = self.config.load(Vec::new())?;
        let settings = configuration.settings();
        let address = self.address.unwrap_or_else(|| reachable(settings.metrics.listen));
        let token = match self.token_file.as_ref().or(settings.control.token_file.as_ref()) {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("can't read the token from {}", path.display()))?;
                Some(format!("Bearer {}", text.trim()).parse().with_context(|| {
                    format!("the token in {} has characters that can't be sent", path.display())
                })?)
            }
            None => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let limit = Duration::from_secs(self.timeout);
        let told = runtime
            .block_on(async { tokio::time::timeout(limit, ask(address, token)).await })
            .with_context(|| format!("{address} did not answer within {} s", self.timeout))??;
        if self.json {
            println!("{}", serde_json::to_string(&told)?);
        } else {
            print!("{}", Table(&told));
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn ask(address: SocketAddr, token: Option<MetadataValue<Ascii>>) -> anyhow::Result<Told> {
    let channel =
        Endpoint::from_shared(format!("http://{address}"))?.connect().await.with_context(|| {
            format!("can't reach {address}; is the server running, and is this its metrics.listen?")
        })?;
    let mut client = ControlServiceClient::with_interceptor(channel, |mut request: Request<()>| {
        if let Some(token) = &token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    });
    let asked = async {
        let server = client.get_server(wire::GetServerRequest {}).await?.into_inner();
        let activity = client.get_activity(wire::GetActivityRequest {}).await?.into_inner();
        Ok(Told { server, activity })
    };
    asked.await.map_err(|status: tonic::Status| match status.code() {
        Code::Unauthenticated => {
            anyhow::anyhow!(
                "{address} asks for its token: name the file with --token-file \
                (control.token_file there)"
            )
        }
        Code::Unimplemented => anyhow::anyhow!(
            "{address} has no control service; it is on the address of metrics.listen, if \
             control.serve allows it there"
        ),
        _ => anyhow::Error::new(status).context(format!("{address} can't say what it does")),
    })
}
