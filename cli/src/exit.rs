//! The end of a command: its exit status, and its error text.
//!
//! Invariant: the status tells a script what to do next. 0 done, 2 correct the command line, 3 conflict, 4 not found, 5
//! try again later or with the same `--request-id`, 1 anything else.

use std::io::{self, Write};
use std::process::ExitCode;

use holdfast_client::protocol::{Code, Error as Contract, Reason};

use crate::output::{self, Format};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong in a way that its parser does not check.
    Usage(String),
    /// Holdfast refused, or did not answer.
    Request(holdfast_client::Error),
    /// NATS cannot be reached.
    Connect(anyhow::Error),
    /// Standard output was closed or is broken.
    Output(io::Error),
    /// A signal ended it before it was done.
    Interrupted,
    /// The exit status of a program that it ran, or one of its own. All was said already.
    Status(u8),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<holdfast_client::Error> for Failure {
    fn from(error: holdfast_client::Error) -> Self {
        Self::Request(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// The exit status.
    fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Request(error) => status_of(error.contract().code),
            Self::Connect(_) => 5,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) | Self::Other(_) => 1,
            Self::Interrupted => 130,
            Self::Status(status) => *status,
        }
    }
}

/// The exit status for a class of the contract's errors.
fn status_of(code: Code) -> u8 {
    match code {
        Code::InvalidParams => 2,
        Code::Conflict => 3,
        Code::NotFound => 4,
        Code::Busy | Code::Unavailable | Code::UnknownOutcome => 5,
        Code::Forbidden | Code::TooLarge | Code::Filesystem | Code::Internal => 1,
    }
}

/// Prints the error, and returns the exit status.
pub(crate) fn report(outcome: Result<(), Failure>, format: Format) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    if let Err(error) = say(&failure, format) {
        tracing::debug!(%error, "the failure could not be told");
    }
    ExitCode::from(failure.status())
}

fn say(failure: &Failure, format: Format) -> io::Result<()> {
    let text = match failure {
        Failure::Request(error) if format == Format::Json => return output::line(&error.contract().to_json()),
        Failure::Connect(error) if format == Format::Json => return output::line(&unavailable(error).to_json()),
        Failure::Request(error) => explain(error.contract()),
        Failure::Usage(message) => format!("error: {message}\n"),
        Failure::Connect(error) | Failure::Other(error) => format!("error: {error:#}\n"),
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Failure::Output(error) => format!("error: cannot write to standard output: {error}\n"),
        Failure::Interrupted | Failure::Status(_) => return Ok(()),
    };
    io::stderr().lock().write_all(text.as_bytes())
}

/// The contract's error for a failed connection to NATS.
fn unavailable(error: &anyhow::Error) -> Contract {
    Contract::new(Reason::StorageUnavailable, format!("{error:#}"))
}

/// The error for a person: what is wrong, and what to do next.
fn explain(error: &Contract) -> String {
    let mut text = format!("error: {}\n", output::plain(&error.to_string()));
    for action in &error.actions {
        text.push_str(&output::plain(&format!("  {action}: {}", hint(action, error))));
        text.push('\n');
    }
    text
}

fn hint(action: &str, error: &Contract) -> String {
    let id = error.details.get("session_id").and_then(|id| id.as_str()).unwrap_or("ID");
    match action {
        "wait" => {
            let line = format!("holdfast lock acquire {id} --owner NAME --wait 1m");
            match error.retry_after_ms.or_else(|| error.details.get("expires_in_ms")?.as_u64()) {
                Some(left) => format!("its lease has {left} ms left; {line}"),
                None => line,
            }
        }
        "takeover" => format!("holdfast admin takeover {id} --owner NAME --reason WHY"),
        "acquire" => format!("holdfast lock acquire {id} --owner NAME"),
        // The session of a file can only be opened by the file's path.
        "open" if id.starts_with("file-") => "holdfast session open --path PATH".to_owned(),
        "open" => format!("holdfast session open {id}"),
        "attach" => format!("holdfast session open {id} --mode attach"),
        "read" => format!("holdfast session get {id}, holdfast doc get {id}"),
        "save" => format!("holdfast doc save {id}"),
        "save_overwrite" => format!("holdfast doc save {id} --overwrite"),
        "load_discard" => format!("holdfast doc load {id} --discard"),
        "discard" => "ask again with --discard".to_owned(),
        "repair_record" => {
            format!("holdfast record edit {id} --reason WHY begins with the last revision that was valid")
        }
        "start_worker" => "holdfast worker list shows who is there; holdfast worker starts one".to_owned(),
        "start_coordinator" => "holdfast coordinator starts one, holdfast up starts everything".to_owned(),
        "retry" => "ask again in a moment".to_owned(),
        "retry_same_request_id" => format!("ask again with --request-id {}", error.request_id),
        other => other.replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: Reason) -> u8 {
        Failure::Request(Contract::new(reason, "x").into()).status()
    }

    #[test]
    fn the_exit_status_tells_what_to_do_next() {
        assert_eq!(Failure::Usage(String::new()).status(), 2);
        assert_eq!(status(Reason::BadValue), 2);
        assert_eq!(status(Reason::LockHeld), 3);
        assert_eq!(status(Reason::StaleToken), 3);
        assert_eq!(status(Reason::NoSession), 4);
        assert_eq!(status(Reason::NoWorker), 4);
        assert_eq!(status(Reason::NoLiveWorker), 5);
        assert_eq!(status(Reason::MailboxFull), 5);
        assert_eq!(status(Reason::AckTimeout), 5);
        assert_eq!(status(Reason::Bug), 1);
        assert_eq!(status(Reason::BodyTooLarge), 1);
        assert_eq!(Failure::Connect(anyhow::anyhow!("x")).status(), 5);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).status(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).status(), 1);
    }

    #[test]
    fn every_action_of_the_contract_is_explained() {
        for reason in Reason::ALL {
            for action in reason.actions().iter().chain(reason.possible_actions()) {
                let shown = hint(action, &Contract::new(*reason, "x"));
                assert_ne!(shown, action.replace('_', " "), "{action} has no hint");
            }
        }
    }

    #[test]
    fn a_lost_lock_is_explained_with_commands() {
        let error = Contract::new(Reason::LockHeld, "session s1 is locked by ann").detail("session_id", "s1");
        let text = explain(&error.retry_after_ms(Some(1200)));
        assert!(text.starts_with("error: session s1 is locked by ann (conflict / lock_held)\n"), "{text}");
        assert!(text.contains("  wait: its lease has 1200 ms left"), "{text}");
        assert!(text.contains("  takeover: holdfast admin takeover s1 "), "{text}");
    }
}
