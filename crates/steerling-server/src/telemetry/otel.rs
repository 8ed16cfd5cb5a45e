//! Spans to an OpenTelemetry collector over HTTP.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

use super::Parent;

/// The address of the collector; without it nothing is sent.
const ENDPOINT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Spans on their way. Dropped, it sends those that are left.
#[derive(Debug)]
pub(super) struct Spans(SdkTracerProvider);

impl Drop for Spans {
    fn drop(&mut self) {
        // Logging is over by now: a collector that does not answer is nobody's business any more.
        _ = self.0.shutdown();
    }
}

/// The layer that sends spans, if a collector is named.
#[expect(clippy::type_complexity, reason = "a name would say less")]
pub(super) fn layer<S>()
-> Result<Option<(OpenTelemetryLayer<S, SdkTracer>, Spans)>, Box<dyn std::error::Error + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if ENDPOINT.iter().all(|name| std::env::var_os(name).is_none()) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_http().build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    // `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the last word.
    let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "steerling".to_owned());
    let resource = Resource::builder().with_service_name(name).with_attribute(version).build();
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    let layer = OpenTelemetryLayer::new(provider.tracer("steerling"));
    Ok(Some((layer, Spans(provider))))
}

/// Makes a span part of the caller's trace.
pub(super) fn adopt(span: &Span, parent: Parent) {
    let (Ok(trace), Ok(id)) = (TraceId::from_hex(parent.trace), SpanId::from_hex(parent.span)) else { return };
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let context = SpanContext::new(trace, id, flags, true, TraceState::default());
    // It fails only where no layer sends spans.
    _ = span.set_parent(Context::new().with_remote_span_context(context));
}
