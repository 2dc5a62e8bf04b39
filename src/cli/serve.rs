//! `skipstone serve`: the service and its metrics, until a signal asks it to stop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::load_progress::LoadBar;
use super::options::{ConfigOptions, ModelOptions, SpeculationOptions, flags};
use super::runtime::{load, serve_grpc};
use crate::config::Settings;
use crate::control::{self, Access, Control};
use crate::server::Listeners;
use crate::telemetry::{self, ExporterHandle, LogFilter, Readiness, Tracing};
use skipstone_engine::record::{self, BuildInfo};

/// Threads for network traffic. The engine has threads of its own; serialising a few messages a
/// step needs no more.
const NETWORK_THREADS: usize = 2;
/// Time that the admin port may take to close after the service has ended.
const METRICS_CLOSE: Duration = Duration::from_secs(1);

/// Serve a model over gRPC
#[derive(Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    model: ModelOptions,
    /// Address of the gRPC service; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address of the Prometheus metrics; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    /// Also serve OpenAI-compatible HTTP at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    openai_listen: Option<SocketAddr>,
    #[command(flatten)]
    speculation: SpeculationOptions,
    #[command(flatten)]
    config: ConfigOptions,
}

/// Sockets that are open before the model is loaded, so that a taken port is found at once and not
/// after seconds.
struct Sockets {
    serving: Listeners,
    metrics: Option<TcpListener>,
}

/// Parts that the admin port needs and that are there before the model is.
struct Admin {
    /// None if the port is closed.
    exporter: Option<ExporterHandle>,
    log_filter: LogFilter,
    access: Access,
}

/// The signals that ask for a shutdown.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Serve ===

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut given = self.model.flags();
        given.extend(self.speculation.flags());
        given.extend(flags([
            ("--listen", "server.listen", self.listen.map(|address| address.to_string())),
            (
                "--openai-listen",
                "openai.listen",
                self.openai_listen.map(|address| address.to_string()),
            ),
            ("--openai-listen", "openai.enabled", self.openai_listen.map(|_| true.to_string())),
            (
                "--metrics-listen",
                "metrics.listen",
                self.metrics_listen.map(|address| address.to_string()),
            ),
        ]));
        let configuration = self.config.load(given)?;
        let settings = configuration.settings().clone();
        let log_filter = telemetry::init_logging(&settings.log.level, settings.log.format)?;
        let access = settings.control.token_file.as_deref().map(Access::from_file).transpose()?;
        let exporter = settings.metrics.enabled.then(telemetry::install).transpose()?;
        let network = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("network")
            .enable_all()
            .build()?;
        let admin = Admin { exporter, log_filter, access: access.unwrap_or_default() };
        let result = network.block_on(serve(Arc::new(settings), admin));
        // A model that is still being loaded when the process is told to stop is not waited for.
        network.shutdown_background();
        result.map(|()| ExitCode::SUCCESS)
    }
}

async fn serve(settings: Arc<Settings>, admin: Admin) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let sockets = Sockets::open(&settings).await?;
    let tracing = match &settings.tracing.otlp_endpoint {
        Some(endpoint) => Tracing::to_collector(endpoint, settings.tracing.sample_ratio)?,
        None => Tracing::default(),
    };
    let for_load = Arc::clone(&settings);
    let loading = tokio::task::spawn_blocking(move || load(&for_load, &LoadBar::new()));
    let runtime = tokio::select! {
        loaded = loading => loaded.context("loading the model failed")??,
        () = signals.wait() => return Ok(()),
    };

    record::build_info(&BuildInfo {
        model: &runtime.name,
        instruction_set: runtime.info.instruction_set,
    });
    let (stop, stopped) = watch::channel(false);
    let readiness = Readiness::default();
    let ready_line = sockets.ready_line(&runtime.name)?;
    let drain = Arc::new(Notify::new());
    let control = Control {
        info: Arc::clone(&runtime.info),
        engine: Arc::clone(&runtime.engine),
        observer: runtime.observer.clone(),
        readiness: readiness.clone(),
        log_filter: admin.log_filter,
        drain: Arc::clone(&drain),
    };
    let routes = if settings.serves_control() {
        control::routes(control, admin.access)?
    } else {
        axum::Router::new()
    };
    let metrics = sockets.metrics.zip(admin.exporter).map(|(listener, exporter)| {
        let shutdown = wait_for(stopped.clone());
        tokio::spawn(telemetry::serve_admin(
            listener,
            exporter,
            readiness.clone(),
            routes,
            shutdown,
        ))
    });
    writeln!(io::stdout(), "{ready_line}")?;
    io::stdout().flush()?;

    let shutdown = async move {
        let by_signal = tokio::select! {
            () = signals.wait() => true,
            () = drain.notified() => false,
        };
        tracing::info!("draining: running streams may finish; a second signal stops at once");
        tokio::spawn(async move {
            // Whoever asked for the drain in another way may still send the usual signal after it.
            if !by_signal {
                signals.wait().await;
                tracing::info!("draining already; a second signal stops at once");
            }
            stop_at_once(signals).await;
        });
    };
    let result =
        serve_grpc(&runtime, &settings, sockets.serving, (readiness, tracing.clone()), shutdown)
            .await
            .context("the service failed");
    // An error would be the task's own panic, which was reported.
    let _ = tokio::task::spawn_blocking(move || tracing.finish()).await;
    // The admin port goes last, so that the drain can be watched.
    let _ = stop.send(true);
    if let Some(metrics) = metrics {
        let _ = tokio::time::timeout(METRICS_CLOSE, metrics).await;
    }
    result
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stopped as well.
    let _ = stopped.wait_for(|&stopped| stopped).await;
}

async fn stop_at_once(mut signals: StopSignals) {
    signals.wait().await;
    tracing::warn!("second signal: stopping at once; running streams are cut off");
    std::process::exit(1);
}

// === impl Sockets ===

impl Sockets {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let grpc = bind(settings.server.listen, "server.listen").await?;
        let openai =
            bind_if(settings.openai.enabled, settings.openai.listen, "openai.listen").await?;
        let metrics =
            bind_if(settings.metrics.enabled, settings.metrics.listen, "metrics.listen").await?;
        Ok(Self { serving: Listeners { grpc, openai }, metrics })
    }

    /// The one line on standard output; scripts wait for it and read the addresses from it.
    fn ready_line(&self, model: &str) -> anyhow::Result<String> {
        let grpc = self.serving.grpc.local_addr()?;
        let openai = match &self.serving.openai {
            Some(listener) => format!(", openai {}", listener.local_addr()?),
            None => String::new(),
        };
        let metrics = match &self.metrics {
            Some(listener) => listener.local_addr()?.to_string(),
            None => "off".to_owned(),
        };
        Ok(format!("skipstone ready: grpc {grpc}{openai}, metrics {metrics}, model {model}"))
    }
}

async fn bind_if(
    enabled: bool,
    address: SocketAddr,
    key: &str,
) -> anyhow::Result<Option<TcpListener>> {
    if enabled { Ok(Some(bind(address, key).await?)) } else { Ok(None) }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}; name another address with {key}"))
}

// === impl StopSignals ===

impl StopSignals {
    /// Takes over the signals. Must come early: as the first process of a container, ours would
    /// ignore SIGTERM.
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flag, Layers};

    #[tokio::test]
    async fn the_ready_line_names_the_real_ports() {
        let flags = [
            ("server.listen", "127.0.0.1:0"),
            ("metrics.listen", "127.0.0.1:0"),
            ("openai.listen", "127.0.0.1:0"),
            ("openai.enabled", "true"),
        ]
        .map(|(key, value)| Flag::new(key, value, "the test"));
        let configuration = Layers { flags: flags.to_vec(), ..Layers::default() }.load().unwrap();
        let mut sockets = Sockets::open(configuration.settings()).await.unwrap();
        let line = sockets.ready_line("m").unwrap();
        let grpc = sockets.serving.grpc.local_addr().unwrap();
        assert_ne!(grpc.port(), 0);
        let openai = sockets.serving.openai.as_ref().unwrap().local_addr().unwrap();
        let metrics = sockets.metrics.as_ref().unwrap().local_addr().unwrap();
        assert_eq!(
            line,
            format!("skipstone ready: grpc {grpc}, openai {openai}, metrics {metrics}, model m")
        );
        (sockets.metrics, sockets.serving.openai) = (None, None);
        assert_eq!(
            sockets.ready_line("m").unwrap(),
            format!("skipstone ready: grpc {grpc}, metrics off, model m")
        );

        let error = format!("{:#}", bind(grpc, "server.listen").await.unwrap_err());
        assert!(
            error.contains(&format!(
                "can't listen on {grpc}; name another address with server.listen"
            )),
            "{error}"
        );
    }
}
