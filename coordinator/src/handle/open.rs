//! `session.open`.
//!
//! Invariant: a new session is one compare-and-set on a key that must not be there, so that of any number of openers one
//! creates. Its owner is told to take it up once, and never again as *created*.

mod real;

use std::sync::Arc;

use holdfast_protocol::document::Content;
use holdfast_protocol::id::{KindName, WorkspaceName};
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::{EventType, Mark, SessionConfig};
use holdfast_protocol::reply::{Opened, Session};
use holdfast_protocol::request::{Mode, Open, OpenConfig, OpenTarget};
use holdfast_protocol::{Error, Limits, Namespace, RequestId, Revision, SessionId, SessionKey};
use uuid::{Builder, Uuid};

use crate::agent::{self, Activated, Beginning};
use crate::answer::Answer;
use crate::cache::Known;
use crate::call::{Call, Incoming};
use crate::decide::{self, Blank, OpenDecision, Standing};
use crate::error;
use crate::hub::Hub;
use crate::past::is_made_by;
use crate::place;
use crate::placement::Needs;
use crate::records::{CommitError, Found};

/// What is to be opened.
struct Wanted {
    key: SessionKey,
    file: Option<(WorkspaceName, CanonicalPath)>,
    kind: KindName,
    mode: Mode,
    config: SessionConfig,
    content: Option<Content>,
}

/// Finds or creates a session.
pub(crate) async fn open(hub: &Arc<Hub>, namespace: &Namespace, incoming: &Incoming) -> Result<Answer, Error> {
    let limits = &hub.config.limits;
    let (request, call) = incoming.parse::<Open>(limits)?;
    let wanted = wanted(request, namespace, &call, limits)?;
    let wanted = real::real(hub, wanted, &call).await?;
    let (known, created) = opened(hub, &wanted, &call).await?;
    Answer::of(&Opened { session: Session::of(&known.record, known.revision), created })
}

fn wanted(request: Open, namespace: &Namespace, call: &Call, limits: &Limits) -> Result<Wanted, Error> {
    let (id, file) = match request.target(limits)? {
        OpenTarget::Id(id) => (id, None),
        OpenTarget::File(workspace, path) => (path.session_id(&workspace), Some((workspace, path))),
        OpenTarget::Fresh => (fresh_id(namespace, call), None),
    };
    Ok(Wanted {
        key: SessionKey::new(namespace.clone(), id),
        file,
        kind: request.kind.unwrap_or_default(),
        mode: request.mode.unwrap_or_default(),
        config: config(request.config.unwrap_or_default(), limits),
        content: request.content,
    })
}

fn config(asked: OpenConfig, limits: &Limits) -> SessionConfig {
    SessionConfig {
        idle_timeout_ms: asked.idle_timeout_ms.unwrap_or(limits.default_idle_timeout_ms),
        on_idle: asked.on_idle.unwrap_or_default(),
        lock: asked.lock.unwrap_or_default(),
    }
}

/// The id of a session whose opener named none. With the caller's `request_id` it follows from that, since a retry must
/// find what its first copy made; it then has the shape of a UUIDv7, though not its clock.
fn fresh_id(namespace: &Namespace, call: &Call) -> SessionId {
    let uuid = if call.by_caller { derived(namespace, &call.request_id) } else { Uuid::now_v7() };
    SessionId::parse(&uuid.to_string()).expect("hex digits and dashes are within the alphabet of ids")
}

fn derived(namespace: &Namespace, request_id: &RequestId) -> Uuid {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"session of ").update(namespace.as_str().as_bytes()).update(&[0]);
    hasher.update(request_id.as_str().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Builder::from_random_bytes(bytes).with_version(uuid::Version::SortRand).into_uuid()
}

impl Wanted {
    fn needs(&self) -> Needs<'_> {
        Needs { kind: self.kind.as_str(), workspace: self.file.as_ref().map(|(workspace, _)| workspace) }
    }
}

enum Step {
    /// This request made it.
    Created(Known),
    /// It is there.
    Existing(Known),
    /// The relay must come this far first.
    Announce(Revision),
    /// Another writer was first.
    Again,
}

async fn opened(hub: &Hub, wanted: &Wanted, call: &Call) -> Result<(Known, bool), Error> {
    // A new id costs no read: that it is new is proven by the write. What is refused on a guess is not.
    let may_be_refused = wanted.mode == Mode::Attach || (wanted.file.is_none() && wanted.key.id.is_of_a_file());
    let mut guess = match hub.records.cached(&wanted.key) {
        None if !may_be_refused => Some(Found::Nothing { revision: Revision(0) }),
        _ => None,
    };
    loop {
        call.in_time(&wanted.key)?;
        match attempt(hub, wanted, call, guess.take()).await? {
            Step::Created(known) => return take_up(hub, wanted, known, call).await.map(|known| (known, true)),
            Step::Existing(known) => return existing(hub, wanted, known, call).await,
            Step::Announce(mark) => hub.announced(mark, call.deadline).await?,
            Step::Again => {}
        }
    }
}

async fn attempt(hub: &Hub, wanted: &Wanted, call: &Call, guess: Option<Found>) -> Result<Step, Error> {
    let key = &wanted.key;
    let _lane = hub.records.lane(key).await;
    call.in_time(key)?;
    // Others may have opened it while this one stood in line.
    let found = match (hub.records.cached(key).filter(|known| known.is_as_of(call.arrived)), guess) {
        (Some(known), _) => Found::Record(known),
        (None, Some(guess)) => guess,
        (None, None) => hub.records.read(key, call.deadline).await?,
    };
    let decision = match decide::is_of_another_kind(&found, &wanted.kind) {
        Some(refusal) => OpenDecision::Refuse(refusal),
        None => decide::open(&found, wanted.mode, key, wanted.file.as_ref()),
    };
    match (decision, found) {
        (OpenDecision::Create { expected, mark }, _) => {
            // What this very request opened once, and is over, is not opened again.
            match opened_before(hub, key, expected, call).await? {
                Some(_) => Err(error::no_session(key)),
                None => create(hub, wanted, call, expected, mark).await,
            }
        }
        (OpenDecision::Existing, Found::Record(known)) => Ok(Step::Existing(known)),
        (OpenDecision::Refuse(refusal), Found::Record(known)) => {
            if was_opened_by(hub, &known, call).await? {
                Ok(Step::Existing(known))
            } else {
                Err(refusal)
            }
        }
        (OpenDecision::Refuse(refusal), Found::Nothing { .. }) => Err(refusal),
        (OpenDecision::Existing, Found::Nothing { .. }) => Ok(Step::Again),
    }
}

async fn create(hub: &Hub, wanted: &Wanted, call: &Call, expected: Revision, mark: Mark) -> Result<Step, Error> {
    let chosen = hub.registry.choose(&wanted.key, wanted.needs(), None, call.deadline).await?;
    let blank = Blank {
        key: &wanted.key,
        file: wanted.file.clone(),
        kind: wanted.kind.clone(),
        config: wanted.config.clone(),
        owner: place::new_owner(chosen),
        expected,
        mark,
    };
    let record = decide::created(blank, call.author(None));
    match hub.records.commit(&wanted.key, expected, record, call).await {
        Ok(known) => Ok(Step::Created(known)),
        Err(CommitError::Moved) => Ok(Step::Again),
        Err(CommitError::Behind(mark)) => Ok(Step::Announce(mark)),
        Err(CommitError::Failed(error)) => Err(error),
    }
}

/// Has a new session's agent begin.
async fn take_up(hub: &Hub, wanted: &Wanted, known: Known, call: &Call) -> Result<Known, Error> {
    let begun = begin(hub, wanted, known.clone(), Beginning::Blank(wanted.content.clone()), call).await;
    if let Err(refusal) = &begun
        && decide::is_final(refusal)
    {
        unmake(hub, &known, refusal, call).await;
    }
    begun
}

/// Has the session's agent begin, wherever it is by then. Only its first owner may take its log for empty.
async fn begin(
    hub: &Hub,
    wanted: &Wanted,
    mut known: Known,
    mut beginning: Beginning,
    call: &Call,
) -> Result<Known, Error> {
    loop {
        match agent::activate(hub, &known, beginning, call).await {
            Activated::Up => return Ok(known),
            Activated::Refused(refusal) => return Err(refusal),
            Activated::Elsewhere => beginning = Beginning::LogOr(wanted.content.clone()),
        }
        known = place::place(hub, &wanted.key, call, &beginning).await?;
        if wanted.content.is_none() {
            return Ok(known);
        }
    }
}

/// Ends a session whose worker refused to begin it, so that a refused open leaves nothing behind.
async fn unmake(hub: &Hub, known: &Known, refusal: &Error, call: &Call) {
    let key = known.record.key();
    let reason: String = refusal.message.chars().take(hub.config.limits.text_chars).collect();
    let next = decide::unmade(&known.record, call.author(Some(&reason)));
    let _lane = hub.records.lane(&key).await;
    if let Err(error) = hub.records.commit(&key, known.revision, next, call).await {
        tracing::info!(%key, ?error, "a session that its worker refused stays");
    }
}

/// Answers with a session that is there, once somebody holds it. Content is for a session that this request made.
async fn existing(hub: &Hub, wanted: &Wanted, known: Known, call: &Call) -> Result<(Known, bool), Error> {
    let created = was_opened_by(hub, &known, call).await?;
    let beginning = if created { Beginning::LogOr(wanted.content.clone()) } else { Beginning::Log };
    let known = match decide::standing(&known.record, |owner| hub.registry.is_lost(owner)) {
        // The first copy of this request may have failed to tell the agent.
        Standing::Active(_) if created => begin(hub, wanted, known, beginning, call).await?,
        Standing::Active(_) => known,
        Standing::Passive | Standing::Orphaned(_) | Standing::Closed => {
            place::place(hub, &wanted.key, call, &beginning).await?
        }
    };
    Ok((known, created))
}

/// Whether an earlier copy of this request opened the session that is there.
///
/// # Errors
/// `no_session` when it opened an earlier one, which is over.
async fn was_opened_by(hub: &Hub, known: &Known, call: &Call) -> Result<bool, Error> {
    let key = known.record.key();
    if call.by_caller && is_made_by(&known.record, &call.request_id, &[EventType::SessionOpened]) {
        return Ok(true);
    }
    match opened_before(hub, &key, known.revision, call).await? {
        None => Ok(false),
        Some(life) if life == known.record.log_after => Ok(true),
        Some(_) => Err(error::no_session(&key)),
    }
}

/// Which life of the session `key` an earlier copy of this request opened, as far as its record's revisions up to
/// `revision` say.
async fn opened_before(hub: &Hub, key: &SessionKey, revision: Revision, call: &Call) -> Result<Option<u64>, Error> {
    if !call.by_caller || revision == Revision(0) {
        return Ok(None);
    }
    let past = hub.records.past(key, revision, call.deadline).await?;
    Ok(past.opened_by(&call.request_id).map(|opened| opened.log_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_id_follows_from_the_callers_request_id() {
        let (here, there) = (Namespace::parse("default").unwrap(), Namespace::parse("other").unwrap());
        let (one, two) = (RequestId::parse("r1").unwrap(), RequestId::parse("r2").unwrap());
        let id = derived(&here, &one);
        assert_eq!(id, derived(&here, &one));
        assert_ne!(id, derived(&here, &two));
        assert_ne!(id, derived(&there, &one));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
    }
}
