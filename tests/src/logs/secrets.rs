//! Looks for secrets in what the parts under test log: every line and every span, of all crates, at every level.
//!
//! Invariant: a secret in a log line ends the whole run with status 101, whichever test it belongs to and whoever would
//! have caught a panic. The line is shown without the secret.
//!
//! `HOLDFAST_SCAN_LOGS=off` switches it off, to measure what it costs.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::{PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// A part of bodies and fields of the tests' documents. No part of Holdfast may log what a document says.
pub const BODY: &str = "never-log-this-body";

/// What a token begins with, as text and as `Debug` shows its bytes.
const TOKEN: &str = "hft_";
const TOKEN_BYTES: &str = "104, 102, 116, 95, ";
/// How many hex digits follow. Tests also use shorter texts in place of a token.
const TOKEN_DIGITS: usize = 40;

static MORE: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// No log line of this process may have `secret` from now on: a password, for example.
pub fn never_log(secret: impl Into<String>) {
    MORE.write().unwrap_or_else(PoisonError::into_inner).push(secret.into());
}

/// The name of the secret that `text` has, if it has one.
pub fn secret_in(text: &str) -> Option<&'static str> {
    if text.contains(BODY) {
        return Some("a document's text");
    }
    let is_token = |rest: &str| {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_hexdigit()).count();
        digits >= TOKEN_DIGITS
    };
    if text.split(TOKEN).skip(1).any(is_token) || text.contains(TOKEN_BYTES) {
        return Some("a token");
    }
    let more = MORE.read().unwrap_or_else(PoisonError::into_inner);
    more.iter().any(|secret| text.contains(secret.as_str())).then_some("a secret that a test named")
}

/// Whether lines are looked at.
pub(super) fn is_on() -> bool {
    std::env::var("HOLDFAST_SCAN_LOGS").map_or(true, |given| given != "off")
}

/// Looks at every line.
pub(super) struct Scanner;

impl<S: Subscriber + for<'lookup> LookupSpan<'lookup>> Layer<S> for Scanner {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        look(event.metadata(), |text| event.record(text));
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        look(attributes.metadata(), |text| attributes.record(text));
    }

    fn on_record(&self, span: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(metadata) = context.metadata(span) {
            look(metadata, |text| values.record(text));
        }
    }
}

/// The fields of one line, one after the other.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes everything.
        write!(self.0, "{}={value:?} ", field.name()).ok();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.extend([field.name(), "=", value, " "]);
    }
}

fn look(metadata: &Metadata<'_>, record: impl FnOnce(&mut Text)) {
    thread_local! {
        // A line is looked at while another one is only if a value logs while it is shown.
        static TEXT: RefCell<Text> = RefCell::default();
    }
    TEXT.with(|text| {
        let Ok(mut text) = text.try_borrow_mut() else { return };
        text.0.clear();
        record(&mut text);
        if let Some(secret) = secret_in(&text.0) {
            end_the_run(metadata, secret, &text.0);
        }
    });
}

fn end_the_run(metadata: &Metadata<'_>, secret: &str, text: &str) -> ! {
    let shown: String = text.chars().filter(|char| !char.is_ascii_digit()).take(400).collect();
    let place = format!("{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
    let told = format!("\n{secret} was logged by {} ({place}); without digits: {shown}\n", metadata.target());
    // Not `eprintln`, which the test runner keeps for the test that this thread belongs to.
    io::stderr().write_all(told.as_bytes()).ok();
    std::process::exit(101);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let token = format!("hft_{}", "0a".repeat(20));
        assert_eq!(secret_in(&format!("payload={token}")), Some("a token"));
        assert_eq!(secret_in(&format!("{:?}", token.as_bytes())), Some("a token"));
        assert_eq!(secret_in(&format!("hft_1 then {token}")), Some("a token"));
        assert_eq!(secret_in("hft_0 is no token, and neither is hft_0a0a"), None);
        assert_eq!(secret_in(&format!("body={BODY}")), Some("a document's text"));
        never_log("pass-word-1");
        assert_eq!(secret_in("user pass-word-1"), Some("a secret that a test named"));
    }
}
