//! Traces on their way through Holdfast: from a request's header over tasks and stored messages to the signals.
//!
//! The trace of a request goes with its task: work that is done [`within`] it stores its records and frames with a
//! header, and the relay gives that to their signals. What is stored as JSON does not change. So a trace goes from the
//! request to the signal even if no process exports spans.
//!
//! Invariant: no outcome depends on a trace. Without one, all of this costs a look at a task's local variable.
//!
//! Deliberately absent: an exporter. The program installs one ([`export_with`]), so that no part depends on its
//! library.

use std::sync::{Arc, OnceLock};

use async_nats::HeaderMap;
use holdfast_protocol::trace::{TRACEPARENT, TraceParent};
use tracing::Span;

/// The header of a frame that several requests share: the trace of each op, in order, with `-` for those without one.
const OF_OPS: &str = "Hf-Traceparents";
/// The most ops of one frame whose traces are stored. A frame is nearly always one op.
const OPS_MAX: usize = 32;

/// The traces of what one message stores: one for a record, one for each op of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces(Option<Arc<[Option<TraceParent>]>>);

tokio::task_local! {
    static TRACES: Traces;
}

impl Traces {
    /// Those of a message with one cause.
    pub fn one(trace: Option<TraceParent>) -> Self {
        Self(trace.map(|trace| Arc::from([Some(trace)])))
    }

    /// Those of a message with these causes.
    pub fn each(traces: impl IntoIterator<Item = Option<TraceParent>>) -> Self {
        let traces: Vec<_> = traces.into_iter().take(OPS_MAX).collect();
        Self(traces.iter().any(Option::is_some).then(|| traces.into()))
    }

    /// The trace of the op with this index.
    pub fn of(&self, index: usize) -> Option<TraceParent> {
        *self.0.as_ref()?.get(index)?
    }

    /// The first one.
    fn first(&self) -> Option<TraceParent> {
        self.0.as_ref()?.iter().find_map(|trace| *trace)
    }

    /// Those that a stored message has.
    pub fn read(headers: &HeaderMap) -> Self {
        match headers.get(OF_OPS) {
            Some(all) => Self::each(all.as_str().split(',').map(TraceParent::parse)),
            None => Self::one(of(Some(headers))),
        }
    }

    fn write(&self, headers: &mut HeaderMap) {
        let Some(first) = self.first() else { return };
        headers.insert(TRACEPARENT, first.to_string());
        if let Some(all) = self.0.as_ref().filter(|all| all.len() > 1) {
            let text = |trace: &Option<TraceParent>| trace.map_or("-".to_owned(), |trace| trace.to_string());
            headers.insert(OF_OPS, all.iter().map(text).collect::<Vec<_>>().join(","));
        }
    }
}

/// The trace that a message's headers name. A malformed header is none.
pub fn of(headers: Option<&HeaderMap>) -> Option<TraceParent> {
    let headers = headers?;
    let of = |name: &str| TraceParent::parse(headers.get(name)?.as_str());
    of(TRACEPARENT).or_else(|| {
        let mut others =
            headers.iter().filter(|(name, _)| AsRef::<str>::as_ref(name).eq_ignore_ascii_case(TRACEPARENT));
        others.find_map(|(_, values)| TraceParent::parse(values.first()?.as_str()))
    })
}

/// Adds the trace to headers that may not exist yet.
pub fn put(headers: &mut Option<HeaderMap>, trace: Option<TraceParent>) {
    if let Some(trace) = trace {
        headers.get_or_insert_default().insert(TRACEPARENT, trace.to_string());
    }
}

/// Does `work` for the requests of `traces`.
pub async fn within<F: Future>(traces: Traces, work: F) -> F::Output {
    TRACES.scope(traces, work).await
}

/// The trace that this task works for.
pub fn current() -> Option<TraceParent> {
    TRACES.try_with(Traces::first).ok().flatten()
}

/// Adds the traces that this task works for to a message that is stored.
pub(crate) fn stamp(headers: &mut HeaderMap) {
    // Outside of any request there is none.
    TRACES.try_with(|traces| traces.write(headers)).ok();
}

/// How spans get into a tracing system.
#[derive(Clone, Copy, Debug)]
pub struct Exporter {
    /// Makes a span that was not entered yet a child of another process's span.
    pub adopt: fn(&Span, TraceParent),
    /// The span as others may name it as a parent. `None` if it is not exported.
    pub named: fn(&Span) -> Option<TraceParent>,
}

static EXPORTER: OnceLock<Exporter> = OnceLock::new();

/// Has the spans of this process exported, from now on. The first call counts.
pub fn export_with(exporter: Exporter) {
    EXPORTER.get_or_init(|| exporter);
}

/// Begins `span` below `parent`. Returns the trace for what comes after it: the span if it is exported, otherwise
/// `parent` as it came.
pub fn begin(span: &Span, parent: Option<TraceParent>) -> Option<TraceParent> {
    let Some(exporter) = EXPORTER.get().filter(|_| !span.is_disabled()) else { return parent };
    if let Some(parent) = parent {
        (exporter.adopt)(span, parent);
    }
    (exporter.named)(span).or(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(last: u8) -> Option<TraceParent> {
        TraceParent::new([1; 16], [0, 0, 0, 0, 0, 0, 0, last], 1)
    }

    fn stored(traces: &Traces) -> HeaderMap {
        let mut headers = HeaderMap::new();
        traces.write(&mut headers);
        headers
    }

    #[test]
    fn traces_of_one_message_come_back_as_they_were_stored() {
        for traces in [Traces::one(trace(1)), Traces::each([None, trace(2), trace(3)]), Traces::default()] {
            assert_eq!(Traces::read(&stored(&traces)), traces);
        }
        let several = stored(&Traces::each([None, trace(2)]));
        assert_eq!(of(Some(&several)), trace(2), "others find one in the standard's header");
        assert!(stored(&Traces::each([None, None])).is_empty());
        assert_eq!(Traces::each((0..100).map(|_| trace(1))).0.unwrap().len(), OPS_MAX);
    }

    #[test]
    fn a_header_in_other_letters_is_found_and_a_malformed_one_is_ignored() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(Some(&headers)), None);
        headers.insert("traceparent", "nonsense");
        assert_eq!(of(Some(&headers)), None);
        headers.insert("Traceparent", trace(4).unwrap().to_string());
        assert_eq!(of(Some(&headers)), trace(4));
    }

    #[tokio::test]
    async fn a_task_knows_the_trace_that_it_works_for() {
        assert_eq!(current(), None);
        within(Traces::one(trace(5)), async {
            assert_eq!(current(), trace(5));
            within(Traces::default(), async { assert_eq!(current(), None) }).await;
            let mut headers = HeaderMap::new();
            stamp(&mut headers);
            assert_eq!(of(Some(&headers)), trace(5));
        })
        .await;
    }
}
