//! The Prometheus page, and the small HTTP server that shows it beside the health of the process.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio::net::TcpListener;

use skipstone_engine::record::catalogue::{self, Kind};
use skipstone_engine::record::{self, NANOSECONDS};

use super::Readiness;

/// Histograms keep every sample until they are folded into their buckets; this is how often that
/// happens.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the metrics that were recorded since [`install`].
#[derive(Clone)]
pub struct ExporterHandle {
    prometheus: PrometheusHandle,
}

/// A reason why the exporter can't be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Handles made before would write to nobody.
    #[error("metrics were recorded before the exporter was installed; install it first")]
    TooLate,
    /// The recorder was refused.
    #[error("the metrics recorder can't be installed: {0}")]
    Recorder(#[from] BuildError),
    /// Another recorder is there.
    #[error("another metrics recorder is installed already; a process has one: {0}")]
    Occupied(String),
}

#[derive(Clone)]
struct Page {
    exporter: ExporterHandle,
    readiness: Readiness,
}

/// Makes this process record its metrics. Call it once, before the engine starts, and run
/// [`serve_admin`] with the result: it also does the upkeep, without which histograms grow.
pub fn install() -> Result<ExporterHandle, InstallError> {
    if record::is_in_use() {
        return Err(InstallError::TooLate);
    }
    let recorder = build_recorder()?;
    let prometheus = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| InstallError::Occupied(error.to_string()))?;
    describe_all();
    record::start();
    Ok(ExporterHandle { prometheus })
}

/// Serves `/metrics`, `/healthz` (the process runs), `/readyz` (it wants requests) and what
/// `others` has until `shutdown` completes, by HTTP/1 and HTTP/2.
///
/// The page shows nothing of any prompt, but bind it to loopback or a private network all the same.
pub async fn serve_admin(
    listener: TcpListener,
    exporter: ExporterHandle,
    readiness: Readiness,
    others: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let page = Page { exporter: exporter.clone(), readiness };
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness_page))
        .with_state(page)
        .merge(others);
    // Not axum's graceful shutdown: it would wait for connections that never say anything.
    tokio::select! {
        result = axum::serve(listener, router) => result,
        () = upkeep(exporter) => Ok(()),
        () = shutdown => Ok(()),
    }
}

async fn metrics_page(State(page): State<Page>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page.exporter.render())
}

async fn readiness_page(State(page): State<Page>) -> impl IntoResponse {
    if page.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn upkeep(exporter: ExporterHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        exporter.prometheus.run_upkeep();
    }
}

/// Without bounds of its own a histogram would turn into a summary, which can't be added up over
/// replicas.
fn build_recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in catalogue::ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder =
                builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    Ok(builder.build_recorder())
}

fn describe_all() {
    for metric in catalogue::ALL {
        let unit = metric.unit.unwrap_or(metrics::Unit::Count);
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// Whether a line of the page is a sample of a counter of seconds.
fn counts_nanoseconds(line: &str) -> bool {
    let name = line.split(['{', ' ']).next().unwrap_or_default();
    catalogue::ALL.iter().any(|metric| {
        metric.name == name
            && metric.kind == Kind::Counter
            && metric.unit == Some(metrics::Unit::Seconds)
    })
}

// === impl ExporterHandle ===

impl ExporterHandle {
    /// The page in Prometheus' text format.
    pub fn render(&self) -> String {
        let raw = self.prometheus.render();
        let mut page = String::with_capacity(raw.len());
        for line in raw.lines() {
            let sample = line.rsplit_once(' ').filter(|_| counts_nanoseconds(line));
            match sample.and_then(|(series, value)| Some((series, value.parse::<f64>().ok()?))) {
                Some((series, value)) => {
                    page.push_str(&format!("{series} {}", value / NANOSECONDS))
                }
                None => page.push_str(line),
            }
            page.push('\n');
        }
        page
    }
}

impl std::fmt::Debug for ExporterHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ExporterHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_with_their_fractions() {
        let recorder = build_recorder().unwrap();
        let prometheus = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_all();
            metrics::counter!(catalogue::VERIFY_SECONDS.name).increment(1_750_000_000);
        });
        let page = ExporterHandle { prometheus }.render();
        assert!(page.contains("\nskipstone_spec_decode_verify_seconds_total 1.75\n"), "{page}");
    }
}
