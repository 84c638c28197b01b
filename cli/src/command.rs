//! The command line: all commands and the options that they share.

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::ask::{Group, until};
use crate::connect::Connection;
use crate::exit::Failure;
use crate::logs::{self, Logs, Runs};
use crate::output::Format;
use crate::{
    admin, audit, completions, context, credentials, doc, doctor, health, list, lock, man, record, restore, schema,
    serve, session, signals, status, top, up, why, worker,
};

/// Sessions, locks and documents for a fleet, on NATS JetStream.
#[derive(Parser, Debug)]
#[command(name = "holdfast", version, after_help = STATUS, max_term_width = 110)]
pub(crate) struct Cli {
    /// Print replies and errors as unchanged JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    logs: logs::Options,
    // Must be last: options after it would be listed under its heading in the help.
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

const STATUS: &str = "Exit status: 0 done, 2 the command line is wrong, 3 conflict, 4 not found,
5 unavailable or unknown outcome, 1 anything else.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run everything on this machine: a nats-server, a coordinator and workers
    Up(up::Up),
    /// Run a coordinator
    Coordinator(serve::CoordinatorArgs),
    /// Run a worker, or list, drain and undrain workers
    Worker(worker::Worker),
    /// Show the state of the installation on one screen; exit status 0 all is well, 1 something is wrong, 5 nobody
    /// answers
    Status(status::Status),
    /// Check servers, streams, permissions and parts, and say how to fix what is wrong; exit status 1 for a problem
    Doctor(doctor::Doctor),
    /// List sessions, as `session list` does
    List(list::List),
    /// Open, show, list, touch and close sessions
    Session(Group<session::Request>),
    /// Acquire, validate, renew and release locks
    Lock(Group<lock::Request>),
    /// Read and change documents
    Doc(Group<doc::Request>),
    /// Take over and free locks, move and reclaim sessions
    Admin(Group<admin::Request>),
    /// Tell the story of a session: who had it, who was refused, who overrode whom, and who may write now
    Why(why::Why),
    /// Show what operators did: takeovers, unlocks, moves, drains, rotations of the secret, and edits by hand
    Audit(audit::Audit),
    /// Read and edit a session's record without a coordinator, for the day when none answers
    #[command(subcommand)]
    Record(record::Record),
    /// After a backup was put back: check that no fence and no token can come back, and repair it
    #[command(subcommand)]
    Restore(restore::Restore),
    /// Follow the signals of a session or of all, from now on or from the past
    Signals(signals::Signals),
    /// Show where commands connect, and as whom
    Context(context::Context),
    /// Print the wire contract as JSON Schema, or as an AsyncAPI document
    Schema(schema::Schema),
    /// Watch workers, sessions, locks and requests, and step in
    Top(top::Top),
    /// Print the completions for a shell
    Completions(completions::Completions),
    /// Print a manual page, or write all of them
    Man(man::Man),
    /// Ask a daemon of this machine whether it is healthy: exit status 0, or 1 and the reason
    Health(health::Health),
    /// Make passwords and contexts for an installation that `holdfast up` does not run
    Credentials(credentials::Credentials),
}

impl Cli {
    /// The whole command line, for what is made from it.
    pub(crate) fn whole() -> clap::Command {
        Self::command()
    }

    /// Parses the command line of this process. Ends the process if it is wrong or asks for help.
    pub(crate) fn read() -> Self {
        let matches = Self::command().get_matches();
        Self::of(&matches).unwrap_or_else(|error| error.exit())
    }

    fn of(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        cli.connection.prefer_command_line(matches);
        let is_namespace_given = matches.value_source("namespace") == Some(ValueSource::CommandLine);
        match &mut cli.command {
            Command::Signals(signals) => signals.is_namespace_given = is_namespace_given,
            Command::Audit(audit) => audit.is_namespace_given = is_namespace_given,
            _ => {}
        }
        if let Command::Up(up) = &mut cli.command {
            // The environment variables are for requests. `up` uses an existing server only if the command line names
            // it.
            let said = |option| matches.value_source(option) == Some(ValueSource::CommandLine);
            up.is_server_given = said("nats") || said("context");
        }
        Ok(cli)
    }

    /// The output format.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::People }
    }

    /// Starts logging as the command line says. To be kept until the last line.
    pub(crate) fn start_logs(&self) -> Logs {
        logs::start(self.logs, self.runs())
    }

    fn runs(&self) -> Runs {
        match &self.command {
            Command::Coordinator(_) => Runs::AsDaemon,
            Command::Worker(worker) if worker.is_daemon() => Runs::AsDaemon,
            Command::Up(_) => Runs::Everything,
            _ => Runs::Once,
        }
    }

    /// Whether it draws on the terminal, where log lines would be in the way.
    pub(crate) fn draws(&self) -> bool {
        matches!(self.command, Command::Top(_))
    }

    /// Whether it passes signals to a program that it runs, in place of being ended by them.
    pub(crate) fn forwards_signals(&self) -> bool {
        match &self.command {
            Command::Lock(group) => group.request.forwards_signals(),
            Command::Doc(group) => group.request.forwards_signals(),
            _ => false,
        }
    }

    /// Runs the command until it is done or `stop` is cancelled.
    pub(crate) async fn run(self, stop: &CancellationToken) -> Result<(), Failure> {
        let format = self.format();
        let connection = &self.connection;
        match self.command {
            Command::Up(up) => up.run(connection, stop).await,
            Command::Coordinator(daemon) => serve::coordinator(daemon, connection, stop).await,
            Command::Worker(worker) => worker.run(connection, format, stop).await,
            Command::Signals(signals) => signals.run(connection, format, stop).await,
            Command::Health(health) => until(stop, health.run(connection, format)).await,
            Command::Credentials(credentials) => credentials.run(connection),
            Command::Status(status) => until(stop, status.run(connection, format)).await,
            Command::Doctor(doctor) => until(stop, doctor.run(connection, format)).await,
            Command::List(list) => list.run(connection, format, stop).await,
            Command::Session(Group { audit, request: session::Request::List(list) }) => {
                list::List::of(audit, *list).run(connection, format, stop).await
            }
            // Not ended by Ctrl-C while an editor runs, which handles it itself.
            Command::Record(record) => record.run(connection, format, stop).await,
            Command::Restore(restore) => until(stop, restore.run(connection, format)).await,
            Command::Audit(audit) => audit.run(connection, format, stop).await,
            Command::Why(why) => until(stop, why.run(connection, format)).await,
            Command::Context(context) => until(stop, context.run(connection, format)).await,
            Command::Schema(schema) => schema.run(&connection.root),
            Command::Top(top) => top.run(connection, stop).await,
            Command::Completions(completions) => completions.run(Self::whole()),
            Command::Man(man) => man.run(Self::whole()),
            Command::Session(group) => until(stop, group.run(connection, format)).await,
            Command::Lock(group) => until(stop, group.run(connection, format)).await,
            Command::Doc(group) => until(stop, group.run(connection, format)).await,
            Command::Admin(group) => until(stop, group.run(connection, format)).await,
        }
    }
}

#[cfg(test)]
mod tests;
