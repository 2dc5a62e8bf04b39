//! The span of a call in a trace: what was asked, and how long it queued, read its prompt and
//! decoded. Never any text.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::intake::Head;
use super::status::code_label;
use skipstone_engine::{Delta, Event, Finished, ValidRequest};

/// The span of one call; it ends when this is dropped. Does nothing where the call is not traced.
#[derive(Debug, Default)]
pub(super) struct CallSpan(Option<Box<Traced>>);

#[derive(Debug)]
struct Traced {
    tracer: SdkTracer,
    /// Holds the span of the call.
    context: Context,
    /// The phase it is in: a child of that span.
    phase: Option<SdkSpan>,
    decode: DecodeCounts,
}

/// Counts of decoding, summed cycle by cycle.
#[derive(Debug, Default)]
struct DecodeCounts {
    cycles: usize,
    tokens: usize,
    drafted: usize,
    accepted: usize,
}

/// Reads the trace that a caller is part of.
struct Headers<'a>(&'a MetadataMap);

// === impl CallSpan ===

impl CallSpan {
    /// Begins the span of a call, within the trace that its headers name.
    pub(super) fn begin(tracer: Option<&SdkTracer>, method: &'static str, head: &Head) -> Self {
        let Some(tracer) = tracer else { return Self(None) };
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &Headers(&head.metadata));
        let span = tracer
            .span_builder(method)
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.method", method),
                KeyValue::new("skipstone.request_id", head.id.as_str().to_owned()),
            ])
            .start_with_context(tracer, &parent);
        if !span.is_recording() {
            return Self(None);
        }
        let (context, decode) = (parent.with_span(span), DecodeCounts::default());
        Self(Some(Box::new(Traced { tracer: tracer.clone(), context, phase: None, decode })))
    }

    /// The request is checked, and is about to queue.
    pub(super) fn queued(&mut self, model: &str, operation: &'static str, request: &ValidRequest) {
        let Some(traced) = &mut self.0 else { return };
        let sampling = request.sampling.settings();
        traced.context.span().set_attributes([
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", "skipstone"),
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("gen_ai.response.model", model.to_owned()),
            KeyValue::new("gen_ai.response.id", request.id.clone()),
            KeyValue::new("gen_ai.usage.input_tokens", integer(request.prompt.len())),
            KeyValue::new("gen_ai.request.max_tokens", integer(request.stop.max_new_tokens)),
            KeyValue::new("gen_ai.request.temperature", f64::from(sampling.temperature)),
            KeyValue::new("gen_ai.request.top_p", f64::from(sampling.top_p)),
            KeyValue::new("gen_ai.request.top_k", i64::from(sampling.top_k)),
            KeyValue::new("gen_ai.request.presence_penalty", f64::from(sampling.presence_penalty)),
            KeyValue::new(
                "gen_ai.request.frequency_penalty",
                f64::from(sampling.frequency_penalty),
            ),
            // Attributes have no unsigned numbers; the bits are the same.
            KeyValue::new("gen_ai.request.seed", sampling.seed.cast_signed()),
        ]);
        traced.enter("queue");
    }

    /// Follows what the engine sends.
    pub(super) fn observe(&mut self, event: &Event) {
        let Some(traced) = &mut self.0 else { return };
        match event {
            Event::Started(_) => traced.enter("prefill"),
            Event::Delta(delta) => {
                if traced.decode.cycles == 0 {
                    traced.enter("decode");
                }
                traced.decode.add(delta);
            }
            Event::Finished(finished) => traced.finish(finished),
        }
    }

    /// Settles how the call ended.
    pub(super) fn end(&mut self, code: Code) {
        let Some(mut traced) = self.0.take() else { return };
        traced.leave();
        let span = traced.context.span();
        let label = code_label(code);
        span.set_attribute(KeyValue::new("rpc.response.status_code", label));
        if code != Code::Ok {
            span.set_attribute(KeyValue::new("error.type", label));
        }
        // What the caller did wrong, or gave up, is no fault of the service.
        if matches!(
            code,
            Code::Internal | Code::Unknown | Code::Unavailable | Code::DeadlineExceeded
        ) {
            span.set_status(Status::error(label));
        }
        span.end();
    }
}

// === impl Traced ===

impl Traced {
    fn enter(&mut self, phase: &'static str) {
        self.leave();
        self.phase =
            Some(self.tracer.span_builder(phase).start_with_context(&self.tracer, &self.context));
    }

    fn leave(&mut self) {
        let Some(mut phase) = self.phase.take() else { return };
        if self.decode.cycles > 0 {
            phase.set_attributes([
                KeyValue::new("skipstone.cycles", integer(self.decode.cycles)),
                KeyValue::new("skipstone.tokens", integer(self.decode.tokens)),
                KeyValue::new("skipstone.draft_tokens", integer(self.decode.drafted)),
                KeyValue::new("skipstone.accepted_tokens", integer(self.decode.accepted)),
            ]);
        }
        phase.end();
    }

    fn finish(&mut self, finished: &Finished) {
        let reasons = Array::String(vec![StringValue::from(finished.reason.name())]);
        self.context.span().set_attributes([
            KeyValue::new("gen_ai.usage.output_tokens", integer(finished.usage.completion_tokens)),
            KeyValue::new("gen_ai.response.finish_reasons", Value::Array(reasons)),
        ]);
        let (Some(phase), stats) = (&mut self.phase, &finished.speculation) else { return };
        phase.set_attributes([
            KeyValue::new("skipstone.draft_seconds", stats.phases.draft.seconds),
            KeyValue::new("skipstone.verify_seconds", stats.phases.verify.seconds),
            KeyValue::new("skipstone.plain_seconds", stats.phases.plain.seconds),
        ]);
        if let Some(speedup) = stats.estimated_speedup {
            phase.set_attribute(KeyValue::new("skipstone.estimated_speedup", speedup));
        }
    }
}

// === impl DecodeCounts ===

impl DecodeCounts {
    fn add(&mut self, delta: &Delta) {
        self.cycles += 1;
        self.tokens += delta.tokens.len();
        self.drafted += delta.drafted;
        self.accepted += delta.accepted;
    }
}

// === impl Headers ===

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        // The W3C format asks for keys by name.
        Vec::new()
    }
}

fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
