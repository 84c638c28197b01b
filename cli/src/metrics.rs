//! `--metrics`: what a daemon shows of itself over HTTP.
//!
//! Invariant: the server answers from before the first connection to NATS until the parts have ended. A port that is
//! taken ends the daemon at its start. Deliberately absent: what is counted (the parts) and the server (`meters`).

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use clap::Args;
use holdfast_coordinator::{Config, Coordinator, Meters};
use holdfast_meters::{Board, Check, Counter, Family, Gauge, Part, Phase, Probe, Serving, serve};
use holdfast_store::connect::server_of;
use holdfast_worker::{Worker, WorkerConfig, WorkerMeters};

use crate::exit::Failure;

/// How often a part looks at itself.
const SELF_CHECK: Duration = Duration::from_secs(2);

/// Whether a daemon shows its metrics and health.
#[derive(Args, Clone, Debug)]
pub(crate) struct Metrics {
    /// Serve /metrics, /healthz and /readyz over HTTP on this address, for whoever can reach it; a port alone is on
    /// 127.0.0.1
    #[arg(long = "metrics", env = "HOLDFAST_METRICS", value_name = "[HOST:]PORT", value_parser = Address::parse)]
    address: Option<Address>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Parses `HOST:PORT`, `:PORT` for all addresses of the machine, or `PORT` for 127.0.0.1.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some(("", port)) => ("0.0.0.0", port),
            Some((host, port)) => (host, port),
            None => ("127.0.0.1", text),
        };
        let port = port.parse().map_err(|_| "an address is like 9464, 127.0.0.1:9464 or :9464".to_owned())?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// Where a process of this machine reaches whoever listens on this address.
    pub(crate) fn for_this_machine(&self) -> String {
        let host = match self.host.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "[::]" => "[::1]",
            host => host,
        };
        format!("{host}:{}", self.port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a running daemon shows, if it was asked to.
pub(crate) struct Shown(Option<Showing>);

struct Showing {
    board: Arc<Board>,
    serving: Serving,
    connected: Family<[(&'static str, String); 1], Gauge>,
    reconnects: Family<[(&'static str, String); 1], Counter>,
    workers: OnceLock<WorkerMeters>,
}

impl Metrics {
    /// Begins to serve, before anything else of the daemon.
    pub(crate) async fn start(&self) -> Result<Shown, Failure> {
        let Some(address) = &self.address else { return Ok(Shown(None)) };
        let board = Board::new(env!("CARGO_PKG_VERSION"));
        let (connected, reconnects) = (Family::default(), Family::default());
        board.register(|registry| {
            let what = "Whether a connection to NATS is there: 1, or 0";
            registry.register("nats_connected", what, Family::clone(&connected));
            registry.register(
                "nats_reconnects",
                "How often a connection to NATS was made again",
                Family::clone(&reconnects),
            );
        });
        let serving = serve(&address.to_string(), board.clone()).await.map_err(|error| {
            Failure::Other(anyhow::anyhow!(
                "cannot serve metrics on {address}: {error}; give --metrics another address, or end what listens there"
            ))
        })?;
        tracing::info!(address = %serving.address(), "metrics and health are served");
        Ok(Shown(Some(Showing { board, serving, connected, reconnects, workers: OnceLock::new() })))
    }
}

impl Shown {
    /// Shows a connection, by the part that has it.
    pub(crate) fn connection(&self, part: &str, nats: &async_nats::Client) {
        let Some(showing) = &self.0 else { return };
        let labels = [("part", part.to_owned())];
        showing.board.show(Arc::new(Link {
            part: part.to_owned(),
            nats: nats.clone(),
            connected: showing.connected.get_or_create_owned(&labels),
            reconnects: showing.reconnects.get_or_create_owned(&labels),
        }));
    }

    /// `config` with metrics that are shown.
    pub(crate) fn of_coordinator(&self, config: Config) -> Config {
        let Some(showing) = &self.0 else { return config };
        Config { meters: showing.board.register(Meters::shown), self_check: Some(SELF_CHECK), ..config }
    }

    /// As [`Shown::of_coordinator`], of a worker.
    pub(crate) fn of_worker(&self, config: WorkerConfig) -> WorkerConfig {
        let Some(showing) = &self.0 else { return config };
        let meters = showing.workers.get_or_init(|| showing.board.register(WorkerMeters::shown)).of(&config.name);
        WorkerConfig { meters, self_check: Some(SELF_CHECK), ..config }
    }

    /// Shows a coordinator that has started.
    pub(crate) fn coordinator(&self, coordinator: &Coordinator) {
        if let Some(showing) = &self.0 {
            showing.board.show(coordinator.part());
        }
    }

    /// Shows a worker that has started.
    pub(crate) fn worker(&self, worker: &Worker) {
        if let Some(showing) = &self.0 {
            showing.board.show(worker.part());
        }
    }

    /// All parts of the daemon have come to `phase`.
    pub(crate) fn enter(&self, phase: Phase) {
        if let Some(showing) = &self.0 {
            showing.board.enter(phase);
        }
    }

    /// Ends the server.
    pub(crate) async fn stop(self) {
        if let Some(showing) = self.0 {
            showing.serving.stop().await;
        }
    }
}

/// A connection to NATS as it shows itself.
struct Link {
    part: String,
    nats: async_nats::Client,
    connected: Gauge,
    reconnects: Counter,
}

impl Link {
    fn is_connected(&self) -> bool {
        self.nats.connection_state() == State::Connected
    }
}

impl Part for Link {
    fn observe(&self) {
        self.connected.set(i64::from(self.is_connected()));
        let connects = self.nats.statistics().connects.load(Ordering::Relaxed);
        self.reconnects.inner().store(connects.saturating_sub(1), Ordering::Relaxed);
    }

    fn checks(&self) -> Vec<Check> {
        let away = (!self.is_connected())
            .then(|| format!("it is not connected; the last server was {}", server_of(&self.nats)));
        vec![Check::new("nats", self.part.clone(), Probe::Readiness, away)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_host_and_a_port() {
        let parsed = |text: &str| Address::parse(text).map(|address| (address.to_string(), address.for_this_machine()));
        let both = |listens: &str, asked: &str| Ok((listens.to_owned(), asked.to_owned()));
        assert_eq!(parsed("9464"), both("127.0.0.1:9464", "127.0.0.1:9464"));
        assert_eq!(parsed(":9464"), both("0.0.0.0:9464", "127.0.0.1:9464"));
        assert_eq!(parsed("[::]:9464"), both("[::]:9464", "[::1]:9464"));
        assert_eq!(parsed("node-1:9464"), both("node-1:9464", "node-1:9464"));
        for text in ["", ":", "host", "host:", "host:70000", "1.2.3.4:x"] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }
}
