//! Log lines for programs: one JSON object a line, with all members at its top.
//!
//! The members are `timestamp` (UTC, RFC 3339), `level`, `target`, `message`, the fields of the line, and those of the
//! spans around it, like `request_id` and `session`. An inner span's field replaces an outer one's of the same name,
//! and the line's own field replaces both.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The format. It needs [`JsonFields`] for the fields of spans.
pub(super) struct Flat;

impl<S> FormatEvent<S, JsonFields> for Flat
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Members::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>() {
                line.0.extend(serde_json::from_str::<Map<String, Value>>(fields).unwrap_or_default());
            }
        }
        event.record(&mut line);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        line.put("timestamp", timestamp);
        line.put("level", event.metadata().level().as_str());
        line.put("target", event.metadata().target());
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

/// The members of one line.
#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(Flat)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_is_one_flat_object_with_the_fields_of_its_spans() {
        let lines = logged(|| {
            let span = tracing::info_span!("request", request_id = tracing::field::Empty, session = %"default.s1");
            let _entered = span.enter();
            span.record("request_id", "r1");
            let _inner = tracing::info_span!("frame", session = %"default.s2", ops = 3).entered();
            tracing::warn!(error = %"no\nanswer", count = 7_u64, "it \"failed\"");
        });
        assert_eq!(lines.len(), 1);
        let line = lines[0].as_object().unwrap();
        assert_eq!(line["message"], "it \"failed\"");
        assert_eq!((line["level"].as_str(), line["error"].as_str()), (Some("WARN"), Some("no\nanswer")));
        assert_eq!((line["count"].as_u64(), line["ops"].as_u64()), (Some(7), Some(3)));
        assert_eq!((line["request_id"].as_str(), line["session"].as_str()), (Some("r1"), Some("default.s2")));
        assert!(line["target"].as_str().is_some_and(|target| target.starts_with("holdfast")));
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert!(line.values().all(|value| !value.is_object()), "{line:?}");
    }

    #[test]
    fn a_field_cannot_replace_the_members_that_every_line_has() {
        let lines = logged(|| tracing::info!(level = "none", target = "nowhere", "x"));
        assert_eq!((lines[0]["level"].as_str(), lines[0]["message"].as_str()), (Some("INFO"), Some("x")));
    }
}
