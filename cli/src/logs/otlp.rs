//! Exports spans by OTLP (HTTP with protobuf), where the environment says.
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT` says where to, without TLS: a collector on the same machine or in the same pod takes
//! them. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say who this is, and `OTEL_BSP_*` how spans are batched.

use std::time::Duration;

use holdfast_client::protocol::trace::TraceParent;
use holdfast_store::trace::{Exporter, export_with};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;

use super::{OURS, Sink};

/// How long the spans that are left may take at the end.
const END: Duration = Duration::from_millis(500);
/// The service's name, unless the environment gives one.
const SERVICE: &str = "holdfast";

/// A running exporter.
pub(super) struct Spans(SdkTracerProvider);

impl Spans {
    pub(super) fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(END) {
            tracing::debug!(%error, "the last spans may not have been exported");
        }
    }
}

/// Starts the exporter and its thread. The layer takes the spans of our crates at the level of information.
pub(super) fn start() -> Result<(Spans, Sink), String> {
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let resource = Resource::builder();
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource,
        None => resource.with_service_name(SERVICE),
    };
    let provider = SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE));
    let layer = layer.with_filter(Targets::new().with_target(OURS, LevelFilter::INFO)).boxed();
    export_with(Exporter { adopt, named });
    Ok((Spans(provider), layer))
}

fn adopt(span: &Span, parent: TraceParent) {
    let parent = SpanContext::new(
        TraceId::from_bytes(parent.trace_id()),
        SpanId::from_bytes(parent.span_id()),
        TraceFlags::new(parent.flags()),
        true,
        TraceState::default(),
    );
    if let Err(error) = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent)) {
        tracing::debug!(%error, "a span keeps no parent of another process");
    }
}

fn named(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let context = context.span().span_context().clone();
    TraceParent::new(context.trace_id().to_bytes(), context.span_id().to_bytes(), context.trace_flags().to_u8())
}
