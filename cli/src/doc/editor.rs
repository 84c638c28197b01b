//! `holdfast doc edit --editor`: a person changes the text in an editor.
//!
//! Invariant: a person's work is never lost. From the moment the editor ends, the text is either the document's, or in
//! a file that the command names.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use holdfast_client::protocol::record::LockMode;
use holdfast_client::protocol::reply::Document;
use holdfast_client::protocol::request::{DocGet, Edit};
use holdfast_client::protocol::{Error as Contract, Reason, Token};
use holdfast_client::{Error, SessionClient};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempPath;
use tokio::process::{Child, Command};

use crate::ask::Asker;
use crate::exit::Failure;
use crate::forwarded::Forwarded;
use crate::lock::{Holding, release};
use crate::output;

/// The ttl of the lock while the editor is open; it is renewed.
const TTL_MS: u64 = 60_000;

/// Changes the document in an editor: with `token`, or with a lock of its own for `owner`.
pub(super) async fn edit(
    asker: &Asker,
    session: &SessionClient,
    token: Option<Token>,
    owner: Option<String>,
) -> Result<(), Failure> {
    let mut forwarded = Forwarded::listen()?;
    let Some(owner) = owner else {
        refuse_in_vain(session, token.as_ref()).await?;
        return change(asker, session, token, &mut forwarded).await;
    };
    let holding = Holding { owner: Some(owner), ttl_ms: TTL_MS, wait_ms: 0, grace: Duration::ZERO };
    let mut keeper = holding.take(asker, session).await?;
    let grant = keeper.grant.clone();
    let changing = change(asker, session, Some(grant.lock_token.clone()), &mut forwarded);
    tokio::pin!(changing);
    tokio::select! {
        outcome = &mut changing => {
            release(asker, session, &grant).await;
            outcome
        }
        lost = keeper.until_lost() => {
            output::note(&format!("holdfast: the lock was lost: {lost}; your text will stay in a file"));
            changing.await
        }
    }
}

/// Refuses what would be refused after the work is done.
async fn refuse_in_vain(session: &SessionClient, token: Option<&Token>) -> Result<(), Failure> {
    if let Some(token) = token {
        session.validate(token).await?;
        return Ok(());
    }
    let seen = session.get().await?;
    let (reason, message) = match (&seen.lock, seen.config.lock) {
        (Some(lock), _) => (Reason::LockHeld, format!("session {} is locked by {}", seen.id, lock.owner)),
        (None, LockMode::Required) => {
            (Reason::LockRequired, format!("session {} needs a lock for changes: give --owner", seen.id))
        }
        (None, LockMode::Optional) => return Ok(()),
    };
    Err(Error::from(Contract::new(reason, message).detail("session_id", seen.id.as_str())).into())
}

/// Opens the editor, and sends what came out of it.
async fn change(
    asker: &Asker,
    session: &SessionClient,
    token: Option<Token>,
    forwarded: &mut Forwarded,
) -> Result<(), Failure> {
    let document = session.document(DocGet::default()).await?;
    let file = Draft::of(&document)?;
    let status = run_editor(&file.path, forwarded).await?;
    let text = match file.text() {
        Ok(text) => text,
        Err(error) => return Err(file.keep(Failure::Other(error))),
    };
    if is_unchanged(&document.body, &text) {
        output::note("holdfast: nothing was changed");
        return Ok(());
    }
    if !status.success() {
        return Err(file.keep(Failure::Other(anyhow::anyhow!("the editor ended with {status}, so nothing was sent"))));
    }
    let edit = Edit { token, expected_revision: Some(document.revision), body: Some(text), ..Edit::default() };
    asker.ask(session.edit(edit)).await.map_err(|failure| match failure {
        // It was sent.
        Failure::Output(error) => Failure::Output(error),
        failure => file.keep(failure),
    })
}

/// The text in a file that only this user can read, removed at the end unless it is kept.
struct Draft {
    path: TempPath,
}

impl Draft {
    fn of(document: &Document) -> Result<Self, Failure> {
        let extension =
            document.path.as_deref().and_then(|path| PathBuf::from(path).extension()?.to_str().map(str::to_owned));
        let suffix = format!(".{}", extension.as_deref().unwrap_or("txt"));
        let file = tempfile::Builder::new()
            .prefix(&format!("holdfast-{}-", document.session_id))
            .suffix(&suffix)
            .tempfile()
            .context("cannot make a file for the editor")?;
        fs::write(file.path(), &document.body).context("cannot write the file for the editor")?;
        Ok(Self { path: file.into_temp_path() })
    }

    /// What is in the file now. An editor may have put another file in its place.
    fn text(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.path).with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// Keeps the file, and says where it is.
    fn keep(self, failure: Failure) -> Failure {
        let place = self.path.display().to_string();
        match self.path.keep() {
            Ok(_) => output::note(&format!("holdfast: your text was not sent; it is in {place}")),
            Err(error) => {
                output::note(&format!("holdfast: your text was not sent, and {place} cannot be kept: {error}"))
            }
        }
        failure
    }
}

/// Editors end a file with a line end, which is no change by a person.
fn is_unchanged(before: &str, after: &str) -> bool {
    after == before || (!before.ends_with('\n') && after.strip_suffix('\n') == Some(before))
}

/// Runs the editor until it ends. It has the terminal, so Ctrl-C is its own; other signals are passed to it.
async fn run_editor(path: &TempPath, forwarded: &mut Forwarded) -> Result<ExitStatus, Failure> {
    let mut editor = open_editor(path).context("cannot start the editor")?;
    loop {
        tokio::select! {
            ended = editor.wait() => return Ok(ended.context("cannot wait for the editor")?),
            signal = forwarded.next() => if !matches!(signal.0, Signal::INT | Signal::QUIT)
                && let Some(pid) = editor.id().and_then(|id| Pid::from_raw(id.cast_signed()))
                && let Err(error) = kill_process(pid, signal.0)
            {
                tracing::debug!(%error, "the editor is gone");
            },
        }
    }
}

/// Starts `$VISUAL`, `$EDITOR` or vi. Its value may have options, so a shell reads it, as for git.
fn open_editor(path: &TempPath) -> io::Result<Child> {
    let said = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let editor = said("VISUAL").or_else(|| said("EDITOR")).unwrap_or_else(|| "vi".into());
    Command::new("sh")
        .args(["-c", "eval \"$HOLDFAST_EDITOR\" '\"$1\"'", "holdfast-editor"])
        .arg(path.as_os_str())
        .env("HOLDFAST_EDITOR", editor)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_that_an_editor_adds_is_no_change() {
        assert!(is_unchanged("a", "a\n") && is_unchanged("a\n", "a\n") && is_unchanged("", "\n"));
        assert!(!is_unchanged("a\n", "a\n\n") && !is_unchanged("a\n", "a") && !is_unchanged("a", "a\n\n"));
    }
}
