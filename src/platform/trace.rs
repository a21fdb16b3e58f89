//! Spans, exported by OTLP over HTTP if the environment names an endpoint, as OpenTelemetry has it
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`). A span is recorded when it has ended, and may have an id that all roles compute alike:
//! so one that outlives a process, as a job's does, is recorded by the controller that sees its end. Nothing rests on
//! them.

use std::{
    borrow::Cow,
    ffi::OsString,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context;
use axum::http::{Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId as Id, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanProcessor},
};
use reqwest::redirect;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::clock;

/// How long the export of what is left may take at the end of the process.
const FLUSH: Duration = Duration::from_secs(3);
/// How long one request may take: the exporter's own limit is only that of its tries.
const REQUEST: Duration = Duration::from_secs(10);
/// The variables that name an endpoint.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// The variables that name a file with its authorities.
const CERTIFICATES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];

static PROCESSOR: OnceLock<BatchSpanProcessor> = OnceLock::new();

/// The id of a span.
pub type SpanId = [u8; 8];

/// A span that has ended.
pub struct Span {
    /// The id of its trace.
    pub trace_id: [u8; 16],
    /// Whether its trace is recorded.
    pub sampled: bool,
    /// Its id; by default a random one.
    pub id: Option<SpanId>,
    /// The span that it is a part of.
    pub parent: Option<SpanId>,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Whether it handles another process' request.
    pub is_server: bool,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it has.
    pub error: Option<String>,
}

/// A time of an object.
pub fn at(time: &Time) -> SystemTime {
    SystemTime::from(time.0)
}

/// Now, by the clock that objects' times come from.
pub fn now() -> SystemTime {
    SystemTime::from(clock::now())
}

/// Sends requests, and says when they begin to fail.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    /// The exporter has a thread of its own.
    runtime: tokio::runtime::Handle,
    /// Whether the last request failed: only the first of many is told.
    failing: AtomicBool,
}

impl Sender {
    fn answered(&self, problem: Option<String>) {
        let failing = problem.is_some();
        let before = self.failing.swap(failing, Ordering::Relaxed);
        match problem {
            Some(problem) if !before => tracing::warn!(problem, "spans are not exported"),
            None if before => tracing::info!("spans are exported again"),
            _ => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            // The body, of any size, says nothing that is acted on.
            let mut response = Response::new(Bytes::new());
            (*response.status_mut(), *response.headers_mut()) = (answer.status(), answer.headers().clone());
            Ok::<_, reqwest::Error>(response)
        });
        let answer = match sent.await {
            // The endpoint's URL may hold a password.
            Ok(answer) => answer.map_err(|error| anyhow::Error::new(error.without_url())),
            Err(error) => Err(error.into()),
        };
        self.answered(match &answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(format!("{error:#}")),
        });
        answer.map_err(HttpError::from)
    }
}

/// Begins to export, if the environment names an endpoint. In a runtime.
pub fn init(instance: &str) {
    if first_of(ENDPOINTS).is_none() {
        return;
    }
    match processor(instance) {
        Ok(processor) => drop(PROCESSOR.set(processor)),
        Err(error) => tracing::warn!(error = format!("{error:#}"), "no traces are exported"),
    }
}

/// The value of the first variable that has one.
fn first_of(variables: [&str; 2]) -> Option<OsString> {
    variables.into_iter().find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

/// Whom to trust: the authorities in that file, else the public ones. The image has no certificates of a system.
fn authorities(file: Option<OsString>) -> anyhow::Result<RootCertStore> {
    let Some(file) = file else { return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()) };
    let mut roots = RootCertStore::empty();
    let named = || format!("the authorities in {}", file.display());
    for certificate in CertificateDer::pem_file_iter(&file).with_context(named)? {
        roots.add(certificate.with_context(named)?).with_context(named)?;
    }
    anyhow::ensure!(!roots.is_empty(), "{}: none", named());
    Ok(roots)
}

fn client() -> anyhow::Result<reqwest::Client> {
    let tls =
        ClientConfig::builder().with_root_certificates(authorities(first_of(CERTIFICATES))?).with_no_client_auth();
    // Headers may be keys of the collector, so they go nowhere else.
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(redirect::Policy::none());
    Ok(client.timeout(REQUEST).build()?)
}

fn processor(instance: &str) -> anyhow::Result<BatchSpanProcessor> {
    let (client, runtime) = (client()?, tokio::runtime::Handle::current());
    let sender = Sender { client, runtime, failing: AtomicBool::new(false) };
    let exporter = SpanExporter::builder().with_http().with_http_client(sender).build()?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let about = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_string()),
    ];
    // OTEL_SERVICE_NAME goes before this.
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("koco");
    }
    processor.set_resource(&resource.with_attributes(about).build());
    Ok(processor)
}

/// Exports what is left.
pub async fn flush() {
    let flushed = tokio::task::spawn_blocking(|| {
        PROCESSOR.get().map(|processor| processor.shutdown_with_timeout(FLUSH).map_err(|e| e.to_string()))
    });
    if let Ok(Some(Err(error))) = flushed.await {
        tracing::debug!(error, "the last spans were not exported");
    }
}

/// Records a span if its trace is sampled. If spans are not exported, it isn't even built.
pub fn record(span: impl FnOnce() -> Span) {
    let Some(processor) = PROCESSOR.get() else { return };
    if let Some(data) = data(span()) {
        processor.on_end(data);
    }
}

/// A span as it is exported, if its trace is sampled.
fn data(span: Span) -> Option<SpanData> {
    let id = Id::from_bytes(span.id.or_else(random).filter(|_| span.sampled)?);
    let trace = TraceId::from_bytes(span.trace_id);
    Some(SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: span.parent.map_or(Id::INVALID, Id::from_bytes),
        parent_span_is_remote: true,
        span_kind: if span.is_server { SpanKind::Server } else { SpanKind::Internal },
        name: span.name,
        start_time: span.start,
        end_time: span.end.max(span.start),
        attributes: span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value)).collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("koco").build(),
    })
}

fn random() -> Option<SpanId> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).ok().map(|()| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(sampled: bool) -> Span {
        Span {
            trace_id: [1; 16],
            sampled,
            id: None,
            parent: Some([2; 8]),
            name: "a span".into(),
            is_server: false,
            start: now(),
            end: now(),
            attributes: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn without_an_endpoint_a_span_is_not_even_built() {
        record(|| unreachable!("no endpoint is configured"));
    }

    #[test]
    fn what_is_not_sampled_is_not_exported() {
        assert!(data(span(false)).is_none());
        let [one, other] = [data(span(true)).unwrap(), data(span(true)).unwrap()];
        assert_eq!(
            (one.span_context.trace_id(), one.parent_span_id),
            (TraceId::from_bytes([1; 16]), Id::from_bytes([2; 8]))
        );
        assert_ne!(one.span_context.span_id(), other.span_context.span_id());
    }
}
