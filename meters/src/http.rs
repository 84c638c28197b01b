//! The HTTP server of a process, and the client that asks one.
//!
//! `GET /metrics`, `/healthz` and `/readyz`; nothing else. Invariant: no answer waits for NATS. A connection that sends
//! nothing is closed, and there are few at once, so whoever reaches the port cannot use up the process's memory.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Board, Health, Probe};

/// How many connections are served at once; more wait.
const CONNECTIONS: usize = 32;
/// How long a connection may take to send the head of its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a connection could not be accepted, because the process has no file descriptor left for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The largest answer that [`ask`] reads.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The type of the text that the library writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A running server.
pub struct Serving {
    stop: CancellationToken,
    tasks: TaskTracker,
    address: SocketAddr,
}

impl Serving {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it. Answers that are being sent are dropped.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serves `board` on `address`.
///
/// # Errors
/// When the address cannot be listened on, for example because another process does.
pub async fn serve(address: &str, board: Arc<Board>) -> std::io::Result<Serving> {
    let listener = TcpListener::bind(address).await?;
    let serving =
        Serving { address: listener.local_addr()?, stop: CancellationToken::new(), tasks: TaskTracker::new() };
    let (stop, tasks) = (serving.stop.clone(), serving.tasks.clone());
    serving.tasks.spawn(serving.stop.clone().run_until_cancelled_owned(accept(listener, board, stop, tasks)));
    Ok(serving)
}

async fn accept(listener: TcpListener, board: Arc<Board>, stop: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let board = board.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let answering = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&board, &request))));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answering);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection for metrics ended");
            }
            drop(place);
        }));
    }
}

fn answer(board: &Board, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => response(StatusCode::OK, OPENMETRICS, board.text()),
        (&Method::GET | &Method::HEAD, "/healthz") => told(&board.health(Probe::Liveness)),
        (&Method::GET | &Method::HEAD, "/readyz") => told(&board.health(Probe::Readiness)),
        (_, "/metrics" | "/healthz" | "/readyz") => {
            response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
        }
        _ => response(StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn told(health: &Health) -> Response<Full<Bytes>> {
    let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, "application/json", health.to_json() + "\n")
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(body.into()))
        .expect("the headers are constants")
}

/// Why a process did not answer.
#[derive(Debug)]
pub enum AskError {
    /// Nothing listens on the address.
    Connect(std::io::Error),
    /// What listens there is not such a server, or the connection broke.
    Broken(String),
    /// It did not answer in time.
    TimedOut(Duration),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "nothing answers there: {error}"),
            Self::Broken(why) => write!(f, "the answer cannot be read: {why}"),
            Self::TimedOut(time) => write!(f, "no answer within {time:?}"),
        }
    }
}

impl std::error::Error for AskError {}

/// Asks the process at `address` for `path`. Returns the status of HTTP and the body.
///
/// # Errors
/// [`AskError`] when there is no answer.
pub async fn ask(address: &str, path: &str, timeout: Duration) -> Result<(u16, String), AskError> {
    tokio::time::timeout(timeout, ask_whenever(address, path)).await.unwrap_or(Err(AskError::TimedOut(timeout)))
}

async fn ask_whenever(address: &str, path: &str) -> Result<(u16, String), AskError> {
    let broken = |error: &dyn std::fmt::Display| AskError::Broken(error.to_string());
    let stream = TcpStream::connect(address).await.map_err(AskError::Connect)?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| broken(&error))?;
    let request = Request::get(path).header(HOST, address).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| broken(&error))?;
    let asking = async move {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|error| broken(&error))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(broken(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Check, Part, Phase};

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_server_answers_what_it_has_and_ends() {
        let board = Board::new("1");
        let serving = serve("127.0.0.1:0", board.clone()).await.unwrap();
        let address = serving.address().to_string();
        let (status, body) = ask(&address, "/readyz", SOON).await.unwrap();
        assert_eq!(status, 503);
        assert!(body.starts_with(r#"{"ok":false,"#) && body.contains("waits for NATS"), "{body}");
        assert_eq!(ask(&address, "/healthz", SOON).await.unwrap(), (200, "{\"ok\":true,\"checks\":[]}\n".to_owned()));
        board.enter(Phase::Running);
        assert_eq!(ask(&address, "/readyz", SOON).await.unwrap().0, 200);
        let (status, body) = ask(&address, "/metrics", SOON).await.unwrap();
        assert!(status == 200 && body.ends_with("# EOF\n"), "{body}");
        assert_eq!(ask(&address, "/", SOON).await.unwrap().0, 404);
        assert_eq!(
            serve(&address, board).await.err().map(|error| error.kind()),
            Some(std::io::ErrorKind::AddrInUse),
            "the port is taken"
        );
        serving.stop().await;
        assert!(matches!(ask(&address, "/healthz", SOON).await, Err(AskError::Connect(_))));
    }

    struct Stuck;

    impl Part for Stuck {
        fn checks(&self) -> Vec<Check> {
            vec![Check::new("sessions", "worker w1", Probe::Liveness, Some("s1 hangs".to_owned()))]
        }
    }

    #[tokio::test]
    async fn a_process_that_is_stuck_is_neither_alive_nor_ready() {
        let board = Board::new("1");
        board.enter(Phase::Running);
        let serving = serve("127.0.0.1:0", board.clone()).await.unwrap();
        let address = serving.address().to_string();
        board.show(Arc::new(Stuck));
        for path in ["/healthz", "/readyz"] {
            let (status, body) = ask(&address, path, SOON).await.unwrap();
            assert!(status == 503 && body.contains("s1 hangs"), "{path}: {status} {body}");
        }
        serving.stop().await;
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_out_for_good() {
        let serving = serve("127.0.0.1:0", Board::new("1")).await.unwrap();
        let address = serving.address().to_string();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS + 1 {
            silent.push(TcpStream::connect(&address).await.unwrap());
        }
        let timeout = ask(&address, "/healthz", Duration::from_millis(300)).await;
        assert!(matches!(timeout, Err(AskError::TimedOut(_))), "all places are taken");
        drop(silent);
        assert_eq!(ask(&address, "/healthz", SOON).await.unwrap().0, 200);
        serving.stop().await;
    }
}
