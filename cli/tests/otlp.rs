//! Spans go to an OTLP collector, below the span of the client: from the coordinator to the worker to the write to the
//! signal. The collector is this test: it takes the protobuf that the exporter posts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_nats::HeaderMap;
use holdfast_tests::wait::{until, until_ok};

const SOON: Duration = Duration::from_secs(60);
const TRACE: [u8; 16] = *b"\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c";
const CLIENT: [u8; 8] = *b"\xb7\xad\x6b\x71\x69\x20\x33\x31";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// One exported span.
#[derive(Clone, Debug, Default)]
struct Span {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
}

/// The fields of a protobuf message that have a length: number and bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            1 => 8,
            5 => 4,
            _ => usize::try_from(varint(&mut message)).unwrap(),
        };
        let (field, rest) = message.split_at(length);
        message = rest;
        if tag & 7 == 2 {
            found.push((tag >> 3, field));
        }
    }
    found
}

/// The spans of an `ExportTraceServiceRequest`: resource spans (1), scope spans (2), spans (2).
fn spans(request: &[u8]) -> Vec<Span> {
    let inner =
        |message, number| fields(message).into_iter().filter(move |field| field.0 == number).map(|field| field.1);
    let scopes = inner(request, 1).flat_map(|resource| inner(resource, 2));
    let spans = scopes.flat_map(|scope| inner(scope, 2));
    let read = |span| {
        let mut read = Span::default();
        for (number, bytes) in fields(span) {
            match number {
                1 => read.trace = bytes.to_vec(),
                2 => read.id = bytes.to_vec(),
                4 => read.parent = bytes.to_vec(),
                5 => read.name = String::from_utf8(bytes.to_vec()).unwrap(),
                _ => {}
            }
        }
        read
    };
    spans.map(read).collect()
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Starts it. Returns its address too.
    fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let taking = collector.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let taking = taking.clone();
                thread::spawn(move || taking.take(connection.unwrap()));
            }
        });
        (collector, address)
    }

    fn take(&self, mut connection: TcpStream) {
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        loop {
            let (mut length, mut line) = (0, String::new());
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            assert!(line.starts_with("POST /v1/traces "), "{line}");
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                if let Some((_, value)) =
                    line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            self.0.lock().unwrap().extend(spans(&body));
            connection
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
        }
    }

    fn of_the_trace(&self) -> Vec<Span> {
        self.0.lock().unwrap().iter().filter(|span| span.trace == TRACE).cloned().collect()
    }

    /// Waits for a span with this name below `parent`.
    async fn wait_for(&self, name: &str, parent: &[u8]) -> Span {
        until_ok(&format!("a span {name}"), SOON, async || {
            let spans = self.of_the_trace();
            let found = spans.iter().find(|span| span.name == name && span.parent == parent).cloned();
            found.ok_or_else(|| format!("{spans:?}"))
        })
        .await
    }
}

struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn spans_of_coordinator_and_worker_are_below_the_clients_span() {
    let (collector, address) = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["up", "--insecure", "--port", &port.to_string(), "--data"])
        .arg(folder.path().join("data"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &address)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env_remove("NATS_URL")
        .env_remove("NATS_CONTEXT")
        .env_remove("RUST_LOG")
        .stdout(Stdio::null())
        .spawn();
    let _up = Up(child.unwrap());
    let url = format!("nats://127.0.0.1:{port}");
    let nats = until("a connection", SOON, async || async_nats::connect(&url).await.ok()).await;
    let ask = async |subject: &str, body: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", TRACEPARENT);
        nats.request_with_headers(subject.to_owned(), headers, body.to_owned().into()).await.ok()
    };
    until("the fleet", SOON, async || {
        ask("hf.default.session.open", r#"{"id":"s1"}"#).await.filter(|reply| reply.payload.starts_with(b"{\"id\""))
    })
    .await;
    let edited = ask("hf.default.doc.edit.s1", r#"{"body":"x"}"#).await.unwrap();
    assert!(edited.payload.starts_with(b"{\"session_id\""), "{edited:?}");

    // The edit: client, coordinator, worker, frame, signal.
    let agent = until("a span of the worker below one of the coordinator below the client's", SOON, async || {
        let spans = collector.of_the_trace();
        let agents = spans.iter().filter(|span| span.name == "agent");
        let is_below = |agent: &&Span| {
            spans.iter().any(|span| span.name == "request" && span.id == agent.parent && span.parent == CLIENT)
        };
        agents.filter(is_below).next_back().cloned()
    })
    .await;
    collector.wait_for("write", &agent.id).await;
    collector.wait_for("signal", &agent.id).await;
    // The open: client, coordinator, record, signal.
    let request = collector.wait_for("request", &CLIENT).await;
    assert_eq!((request.trace.as_slice(), request.id.len()), (&TRACE[..], 8));
}
