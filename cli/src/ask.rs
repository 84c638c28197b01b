//! Sends a request, with the options that every request may have, and shows its reply.

use clap::{Args, Subcommand};
use holdfast_client::protocol::{Namespace, RequestId, Token};
use holdfast_client::{Call, Client, SessionClient};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::session::Of;
use crate::table::Shown;

/// Runs a request unless `stop` is cancelled first.
pub(crate) async fn until(
    stop: &CancellationToken,
    request: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        outcome = request => outcome,
        () = stop.cancelled() => Err(Failure::Interrupted),
    }
}

/// Options of every request.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Audit {
    /// Idempotency key: a request with the same key gets the same outcome
    #[arg(long, global = true, value_name = "ID", value_parser = RequestId::parse)]
    request_id: Option<RequestId>,
    /// Who asks, for the audit trail
    #[arg(long, global = true, env = "USER", value_name = "TEXT")]
    actor: Option<String>,
}

/// A group of commands, each of which is one request of the contract.
#[derive(Args, Debug)]
pub(crate) struct Group<R: Subcommand> {
    #[command(flatten)]
    pub(crate) audit: Audit,
    #[command(subcommand)]
    pub(crate) request: R,
}

/// The requests of a group.
pub(crate) trait Requests {
    /// Sends the request, and shows the reply.
    async fn ask(self, asker: &Asker) -> Result<(), Failure>;
}

impl<R: Subcommand + Requests> Group<R> {
    /// Connects and sends the request.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        self.request.ask(&Asker::connect(connection, self.audit, format).await?).await
    }
}

/// A client, with the options of its requests and the format of its output.
pub(crate) struct Asker {
    pub(crate) client: Client,
    pub(crate) namespace: Namespace,
    audit: Audit,
    format: Format,
}

impl Asker {
    /// Connects.
    pub(crate) async fn connect(connection: &Connection, audit: Audit, format: Format) -> Result<Self, Failure> {
        Ok(Self { client: connection.client().await?, namespace: connection.namespace.clone(), audit, format })
    }

    /// The session that a command line names.
    pub(crate) fn session(&self, of: &Of) -> SessionClient {
        self.client.session(of.id.clone())
    }

    /// Sends one request and shows its reply.
    pub(crate) async fn ask<T: DeserializeOwned + Shown>(&self, call: Call<T>) -> Result<(), Failure> {
        let call = self.signed(call);
        let reply = call.send_raw().await?;
        self.show(&call, &reply)
    }

    /// `call` with the options of every request.
    pub(crate) fn signed<T>(&self, call: Call<T>) -> Call<T> {
        let call = self.acting(call);
        match self.audit.request_id.clone() {
            Some(request_id) => call.request_id(request_id),
            None => call,
        }
    }

    /// `call` with who asks, for a request beside the one that the command line is about.
    pub(crate) fn acting<T>(&self, call: Call<T>) -> Call<T> {
        match self.actor() {
            Some(actor) => call.actor(actor),
            None => call,
        }
    }

    /// Who asks.
    pub(crate) fn actor(&self) -> Option<&str> {
        self.audit.actor.as_deref().filter(|actor| !actor.is_empty())
    }

    /// Sends one request and prints only the token that its reply grants.
    pub(crate) async fn ask_token<T: DeserializeOwned>(
        &self,
        call: Call<T>,
        token: impl FnOnce(T) -> Token,
    ) -> Result<(), Failure> {
        let reply = self.signed(call).send().await?;
        output::line(token(reply).as_bytes()).map_err(Failure::Output)
    }

    /// Shows a reply: unchanged for a program, as `text` for a person.
    pub(crate) fn write(&self, reply: &[u8], text: &str) -> Result<(), Failure> {
        let written = match self.format {
            Format::Json => output::line(reply),
            Format::People => output::text(text),
        };
        written.map_err(Failure::Output)
    }

    /// Shows the reply to `call`.
    pub(crate) fn show<T: DeserializeOwned + Shown>(&self, call: &Call<T>, reply: &[u8]) -> Result<(), Failure> {
        let written = match self.format {
            Format::Json => output::line(reply),
            Format::People => output::text(&call.read(reply)?.shown()),
        };
        written.map_err(Failure::Output)
    }
}
