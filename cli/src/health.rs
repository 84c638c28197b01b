//! `holdfast health`: asks a daemon on this machine whether it is healthy.

use clap::Args;
use holdfast_meters::ask;
use serde::Deserialize;

use crate::connect::Connection;
use crate::exit::Failure;
use crate::metrics::Address;
use crate::output::{self, Format};

/// What to ask, and whom.
#[derive(Args, Debug)]
pub(crate) struct Health {
    /// Where the daemon serves its metrics, as its --metrics says
    #[arg(long, env = "HOLDFAST_METRICS", value_name = "[HOST:]PORT", value_parser = Address::parse)]
    address: Option<Address>,
    /// Ask whether it is ready (/readyz), and not only whether it is alive (/healthz)
    #[arg(long)]
    ready: bool,
}

/// The answer of a daemon.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    check: String,
    part: String,
    reason: Option<String>,
}

impl Health {
    /// Asks, and fails when the daemon is not healthy.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        let Some(address) = &self.address else {
            let help = "say which daemon: give --address, or set HOLDFAST_METRICS as the daemon has it";
            return Err(Failure::Usage(help.to_owned()));
        };
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let address = address.for_this_machine();
        let (_, body) = ask(&address, path, connection.timeout)
            .await
            .map_err(|error| anyhow::anyhow!("the daemon at {address} is not healthy: {error}"))?;
        let answer: Answer = serde_json::from_str(&body)
            .map_err(|_| anyhow::anyhow!("what listens at {address} is not a daemon of Holdfast"))?;
        if format == Format::Json {
            output::text(&body).map_err(Failure::Output)?;
        }
        if !answer.ok {
            let word = if self.ready { "ready" } else { "healthy" };
            return Err(anyhow::anyhow!("the daemon at {address} is not {word}: {}", answer.failures()).into());
        }
        if format == Format::People {
            output::text(if self.ready { "ready\n" } else { "healthy\n" }).map_err(Failure::Output)?;
        }
        Ok(())
    }
}

impl Answer {
    fn failures(&self) -> String {
        let failure = |Check { check, part, reason }: &Check| Some(format!("{check} of {part}: {}", reason.as_ref()?));
        self.checks.iter().filter_map(failure).collect::<Vec<_>>().join("; ")
    }
}
