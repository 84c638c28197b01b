//! Logs, on standard error: standard output is for replies.
//!
//! `RUST_LOG` decides which lines there are, if it is set. Otherwise `-v` and `-q` do. Its words are `level` and
//! `target=level`, with commas between them. Filters by span or by field are not understood: they would need one more
//! engine for regular expressions, which everybody who builds this would wait for.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

mod json;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "logs/no_otlp.rs"]
mod otlp;

use otlp::Spans;

/// The variable with a filter of one's own.
const FILTER: &str = "RUST_LOG";
/// All of our crates: a filter matches the beginning of a target.
const OURS: &str = "holdfast";
/// The lines about what operators asked for. A daemon writes them however quiet it is.
const AUDIT: &str = "holdfast_audit";
/// The client library.
const NATS: &str = "async_nats";
/// Where the client library logs each message with its whole body, at the level `trace`. A body may have a token, so no
/// filter shows these lines.
const MESSAGES: &str = "async_nats::connection";

/// Which log lines there are, and how they look.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// How log lines look: for people, or one JSON object a line
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
    /// More log lines: -v, -vv and -vvv; RUST_LOG=level or target=level,... says it more exactly, and wins
    #[arg(long, short, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log errors only, and of a daemon its audit lines
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// What kind of command logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Until a signal ends it: its log is how people see it.
    AsDaemon,
    /// Everything on this machine, at somebody's terminal.
    Everything,
    /// Until it has its answer. What fails is its error message, not a log line.
    Once,
}

/// What was started. Ends with [`Logs::end`].
pub(crate) struct Logs {
    spans: Option<Spans>,
}

impl Logs {
    /// Sends the spans that are left, within half a second.
    pub(crate) fn end(self) {
        if let Some(spans) = self.spans {
            spans.end();
        }
    }
}

/// Starts logging, and exporting spans if the environment says where to.
pub(crate) fn start(options: Options, runs: Runs) -> Logs {
    let given = std::env::var(FILTER).ok().filter(|given| !given.trim().is_empty());
    let (filter, refused) = options.filter(runs, given.as_deref());
    let filter = without_messages(filter);
    let lines = options.lines().with_filter(filter).boxed();
    let (spans, layer, told) = if runs == Runs::Once { (None, None, None) } else { exported() };
    tracing_subscriber::registry().with([Some(lines), layer].into_iter().flatten().collect::<Vec<_>>()).init();
    for warning in [refused, told].into_iter().flatten() {
        tracing::warn!("{warning}");
    }
    Logs { spans }
}

/// One of the things that are done with spans and lines.
type Sink = Box<dyn Layer<Registry> + Send + Sync>;

/// The variables that say where spans are sent to.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

fn endpoint() -> Option<&'static str> {
    ENDPOINTS.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The exporter of spans, its layer, and a warning if there is none although there should be.
fn exported() -> (Option<Spans>, Option<Sink>, Option<String>) {
    let Some(variable) = endpoint() else { return (None, None, None) };
    match otlp::start() {
        Ok((spans, layer)) => (Some(spans), Some(layer), None),
        Err(error) => (None, None, Some(format!("{variable} is set, and spans are not exported: {error}"))),
    }
}

/// `filter` without the lines that have whole messages.
fn without_messages(filter: Targets) -> Targets {
    match filter.would_enable(MESSAGES, &Level::TRACE) {
        true => filter.with_target(MESSAGES, LevelFilter::DEBUG),
        false => filter,
    }
}

/// Reads a filter. The library takes a span's name as a part of a target, which would then match nothing.
fn understood(given: &str) -> Result<Targets, String> {
    if given.contains(['[', '{']) {
        return Err("there are no filters by span or field".to_owned());
    }
    Targets::from_str(given).map_err(|error| error.to_string())
}

impl Options {
    /// The filter, and what is wrong with the given one if it was not taken.
    fn filter(self, runs: Runs, given: Option<&str>) -> (Targets, Option<String>) {
        match given.map(understood) {
            Some(Ok(filter)) => (filter, None),
            Some(Err(error)) => {
                let given = given.unwrap_or_default();
                let refused = format!(
                    "{FILTER}={given:?} is not understood ({error}), so the usual lines are logged; it is a level, or \
                     target=level with commas between them, like warn,holdfast=debug"
                );
                (self.usual(runs), Some(refused))
            }
            None => (self.usual(runs), None),
        }
    }

    /// The filter when the environment gives none.
    fn usual(self, runs: Runs) -> Targets {
        let (ours, others) = match (runs, self.verbose) {
            _ if self.quiet => (LevelFilter::ERROR, LevelFilter::ERROR),
            (Runs::AsDaemon, 0) => (LevelFilter::INFO, LevelFilter::WARN),
            (Runs::Everything | Runs::Once, 0) => (LevelFilter::WARN, LevelFilter::WARN),
            (Runs::AsDaemon, 1) => (LevelFilter::DEBUG, LevelFilter::INFO),
            (Runs::Everything | Runs::Once, 1) => (LevelFilter::INFO, LevelFilter::WARN),
            (Runs::AsDaemon, 2) => (LevelFilter::TRACE, LevelFilter::DEBUG),
            (Runs::Everything | Runs::Once, 2) => (LevelFilter::DEBUG, LevelFilter::INFO),
            (_, 3..) => (LevelFilter::TRACE, LevelFilter::TRACE),
        };
        let filter = Targets::new().with_default(others).with_target(OURS, ours);
        match runs {
            Runs::AsDaemon => filter.with_target(AUDIT, ours.max(LevelFilter::INFO)),
            // It runs a coordinator, which writes audit lines.
            Runs::Everything if !self.quiet => filter.with_target(AUDIT, ours.max(LevelFilter::INFO)),
            Runs::Everything => filter,
            // The command's error message says what the library would, and with what helps.
            Runs::Once if self.verbose == 0 => filter.with_target(NATS, LevelFilter::OFF),
            Runs::Once => filter,
        }
    }

    fn lines(self) -> Sink {
        let lines = fmt::layer().with_writer(io::stderr);
        match self.log_format {
            LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.fmt_fields(fmt::format::JsonFields::new()).event_format(json::Flat).boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(verbose: u8, quiet: bool) -> Options {
        Options { verbose, quiet, ..Options::default() }
    }

    fn most(filter: &Targets, target: &str) -> Option<Level> {
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        levels.into_iter().find(|level| filter.would_enable(target, level))
    }

    #[test]
    fn each_kind_of_command_has_its_usual_lines() {
        let of = |runs, verbose, target| most(&options(verbose, false).usual(runs), target);
        assert_eq!(of(Runs::AsDaemon, 0, "holdfast_coordinator::relay"), Some(Level::INFO));
        assert_eq!(of(Runs::AsDaemon, 0, "async_nats::connector"), Some(Level::WARN));
        assert_eq!(of(Runs::AsDaemon, 1, "holdfast_worker"), Some(Level::DEBUG));
        assert_eq!(of(Runs::AsDaemon, 2, "holdfast_worker"), Some(Level::TRACE));
        assert_eq!(of(Runs::Once, 0, "holdfast_store"), Some(Level::WARN));
        assert_eq!(of(Runs::Once, 0, "async_nats::connector"), None, "its error is in the command's own message");
        assert_eq!(of(Runs::Once, 1, "async_nats::connector"), Some(Level::WARN));
        assert_eq!(of(Runs::Everything, 0, "async_nats::connector"), Some(Level::WARN));
        assert_eq!(of(Runs::Once, 3, "async_nats::connector"), Some(Level::TRACE));
    }

    #[test]
    fn no_filter_shows_whole_messages() {
        for given in ["trace", "async_nats=trace", "warn,async_nats::connection=trace"] {
            let filter = without_messages(understood(given).unwrap());
            assert_eq!(most(&filter, MESSAGES), Some(Level::DEBUG), "{given}");
        }
        assert_eq!(most(&without_messages(options(3, false).usual(Runs::Once)), MESSAGES), Some(Level::DEBUG));
        let filter = without_messages(understood("error").unwrap());
        assert_eq!(most(&filter, MESSAGES), Some(Level::ERROR), "it adds no lines");
    }

    #[test]
    fn a_quiet_daemon_still_writes_its_audit_lines() {
        let quiet = options(0, true);
        assert_eq!(most(&quiet.usual(Runs::AsDaemon), "holdfast_worker"), Some(Level::ERROR));
        assert_eq!(most(&quiet.usual(Runs::AsDaemon), AUDIT), Some(Level::INFO));
        assert_eq!(most(&quiet.usual(Runs::Once), "holdfast_store"), Some(Level::ERROR));
        assert_eq!(
            most(&options(0, false).usual(Runs::Everything), AUDIT),
            Some(Level::INFO),
            "`up` has a coordinator"
        );
    }

    #[test]
    fn a_filter_of_ones_own_wins_and_a_malformed_one_is_told() {
        let (filter, refused) = options(3, false).filter(Runs::AsDaemon, Some("error,holdfast_store=debug"));
        assert_eq!(refused, None);
        assert_eq!(most(&filter, "holdfast_store::connect"), Some(Level::DEBUG));
        assert_eq!(most(&filter, "holdfast_worker"), Some(Level::ERROR));
        for malformed in ["holdfast=loud", "holdfast[request]=debug", "a=b=c"] {
            let (filter, refused) = options(0, false).filter(Runs::AsDaemon, Some(malformed));
            assert!(refused.as_deref().is_some_and(|refused| refused.contains(malformed)), "{malformed}: {refused:?}");
            assert_eq!(most(&filter, "holdfast_worker"), Some(Level::INFO), "{malformed}");
        }
    }
}
