//! Spans on their way to an OpenTelemetry collector.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};

/// A collector that is away is mentioned this often, whatever number of spans is lost.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Time that the last spans may take to leave at the end.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// The name in traces, unless OTEL_SERVICE_NAME says another.
const SERVICE: &str = "skipstone";

/// Destination of spans. Clones share one queue; the default value sends nothing.
///
/// Spans are queued and sent by a thread of their own. A collector that is slow or away costs a
/// request nothing: what does not fit into the queue is dropped.
#[derive(Clone, Debug, Default)]
pub struct Tracing(Option<SdkTracerProvider>);

/// A reason why spans can't be sent.
#[derive(Debug, thiserror::Error)]
#[error("spans can't be sent to {endpoint}: {source}; see tracing.otlp_endpoint")]
pub struct TracingError {
    endpoint: String,
    source: ExporterBuildError,
}

/// Passes spans on, and says now and then that it can't.
#[derive(Debug)]
struct Exporter {
    inner: OtlpExporter,
    complaint: Mutex<Complaint>,
}

/// Complaint about spans that were lost.
#[derive(Debug, Default)]
struct Complaint {
    lost: usize,
    said: Option<Instant>,
}

// === impl Tracing ===

impl Tracing {
    /// Sends the spans of `sample_ratio` (0 to 1) of all requests to the OTLP collector at
    /// `endpoint`; requests that come with a trace of their own follow its decision. Call it within
    /// a tokio runtime.
    ///
    /// # Errors
    /// If the endpoint is no address. Whether a collector answers there is not asked.
    pub fn to_collector(endpoint: &str, sample_ratio: f64) -> Result<Self, TracingError> {
        let inner = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let inner =
            inner.map_err(|source| TracingError { endpoint: endpoint.to_owned(), source })?;
        // Those of the environment, OTEL_RESOURCE_ATTRIBUTES, win over these.
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", SERVICE),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .with_detector(Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new()))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Exporter { inner, complaint: Mutex::default() })
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Self(Some(provider)))
    }

    /// The tracer that makes spans, if any are wanted.
    pub fn tracer(&self) -> Option<SdkTracer> {
        self.0.as_ref().map(|provider| provider.tracer(SERVICE))
    }

    /// Sends what is queued, within a bounded time. Blocks.
    pub fn finish(&self) {
        if let Some(provider) = &self.0 {
            // What could not be sent was complained about, or the collector is too slow to wait
            // for.
            let _ = provider.shutdown_with_timeout(LAST_EXPORT);
        }
    }
}

// === impl Exporter ===

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        if let Err(error) = &result {
            let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lost) = complaint.about(spans, Instant::now()) {
                tracing::warn!(%error, lost, "spans were lost: is the collector at \
                    tracing.otlp_endpoint up?");
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

// === impl Complaint ===

impl Complaint {
    /// Counts lost spans; returns how many there are to speak of, if it is time to.
    fn about(&mut self, spans: usize, now: Instant) -> Option<usize> {
        self.lost += spans;
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < COMPLAINT_INTERVAL) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_is_away_is_mentioned_once_in_a_while() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let seconds =
            [(0, Some(3)), (5, None), (59, None), (61, Some(9)), (62, None), (200, Some(6))];
        let wrong: Vec<_> = seconds
            .into_iter()
            .filter(|(second, said)| {
                complaint.about(3, start + Duration::from_secs(*second)) != *said
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_named() {
        let error = Tracing::to_collector("http://:::", 1.0).unwrap_err().to_string();
        assert!(error.contains("http://:::") && error.contains("tracing.otlp_endpoint"), "{error}");
        assert!(Tracing::default().tracer().is_none());
    }
}
