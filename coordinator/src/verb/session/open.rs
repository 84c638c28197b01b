//! `session.open`.
//!
//! Invariant: a session is created by one compare-and-set on a key that must not exist, so one of any number of openers
//! creates it. Only its first owner is told to activate it as *created*, and only once.

mod real;

use std::sync::Arc;

use holdfast_protocol::document::Content;
use holdfast_protocol::id::{KindName, WorkspaceName};
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::{EventType, SessionConfig, SessionRecord};
use holdfast_protocol::reply::{Opened, Session};
use holdfast_protocol::request::{Mode, Open, OpenConfig, OpenTarget};
use holdfast_protocol::{Error, Limits, Namespace, RequestId, Revision, SessionId, SessionKey};
use holdfast_records::{Change, Done, Found, Known, Wrote, change};
use holdfast_rules::Decision;
use holdfast_rules::open::{self, Blank, OpenDecision};
use holdfast_rules::past::is_made_by;
use holdfast_rules::place::{Ownership, ownership};
use holdfast_store::chance;
use holdfast_store::mutant::{self, Mutant};
use uuid::{Builder, Uuid};

use crate::context::Context;
use crate::error;
use crate::fleet::placement::Needs;
use crate::link::{self, Activated, Beginning};
use crate::meters::Placement;
use crate::operation::{Incoming, Operation};
use crate::place;
use crate::response::Response;
use crate::writer::Writer;

/// The session that is to be opened.
struct Wanted {
    key: SessionKey,
    file: Option<(WorkspaceName, CanonicalPath)>,
    kind: KindName,
    mode: Mode,
    config: SessionConfig,
    content: Option<Content>,
}

/// Finds or creates a session.
pub(crate) async fn open(
    context: &Arc<Context>,
    namespace: &Namespace,
    incoming: &Incoming,
) -> Result<Response, Error> {
    let limits = &context.config.limits;
    let (request, operation) = incoming.parse::<Open>(limits)?;
    let wanted = wanted(request, namespace, &operation, limits)?;
    let wanted = real::real(context, wanted, &operation).await?;
    let (known, created) = opened(context, &wanted, &operation).await?;
    Response::of(&Opened { session: Session::of(&known.record, known.revision), created })
}

fn wanted(request: Open, namespace: &Namespace, operation: &Operation, limits: &Limits) -> Result<Wanted, Error> {
    let (id, file) = match request.target(limits)? {
        OpenTarget::Id(id) => (id, None),
        OpenTarget::File(workspace, path) => (path.session_id(&workspace), Some((workspace, path))),
        OpenTarget::Fresh => (fresh_id(namespace, operation), None),
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

/// The id of a session whose opener named none. It is derived from the caller's `request_id`, if there is one, so that
/// a retry finds the session that the first copy made. It is then formatted like a UUIDv7, but has no time in it.
fn fresh_id(namespace: &Namespace, operation: &Operation) -> SessionId {
    let uuid = if operation.by_caller { derived(namespace, &operation.request_id) } else { chance::id() };
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

    fn rule(&self) -> open::Wanted<'_> {
        open::Wanted { key: &self.key, file: self.file.as_ref(), kind: &self.kind, mode: self.mode }
    }
}

async fn opened(context: &Context, wanted: &Wanted, operation: &Operation) -> Result<(Known, bool), Error> {
    let opening = Opening { wanted, is_known: context.records.cached(&wanted.key).is_some() };
    let done = change(&mut Writer::new(context, &wanted.key, operation), &opening).await;
    match done.map_err(|not_done| error::of_not_done(not_done, &wanted.key))? {
        Done { known, wrote: Wrote::Nothing, .. } => existing(context, wanted, known, operation).await,
        Done { known, .. } => {
            context.config.meters.placed(Placement::Opened);
            take_up(context, wanted, known, operation).await.map(|known| (known, true))
        }
    }
}

/// Creates a session, unless it exists.
struct Opening<'a> {
    wanted: &'a Wanted,
    /// Whether this coordinator has its record cached.
    is_known: bool,
}

impl Opening<'_> {
    async fn decide_on(
        &self,
        writer: &Writer<'_>,
        record: Option<&SessionRecord>,
        revision: Revision,
    ) -> Result<Decision<()>, Error> {
        let (context, operation, wanted) = (writer.context, writer.operation, self.wanted);
        let (expected, mark) = match open::open(record, revision, wanted.rule()) {
            OpenDecision::Existing => return Ok(Decision::Unchanged(())),
            OpenDecision::Refuse(refusal) => return Ok(Decision::Refuse(refusal)),
            OpenDecision::Create { expected, mark } => (expected, mark),
        };
        // If an earlier copy of this request opened the session, and it has ended, it is not opened again. The past may
        // be newer than this record, so this is said of a fresh record only.
        if opened_before(context, &wanted.key, expected, operation).await?.is_some() {
            return Ok(Decision::Refuse(Error::no_session(&wanted.key)));
        }
        let chosen = context.fleet.choose(&wanted.key, wanted.needs(), None, operation.deadline).await?;
        let blank = Blank {
            key: &wanted.key,
            file: wanted.file.clone(),
            kind: wanted.kind.clone(),
            config: wanted.config.clone(),
            owner: place::new_owner(chosen),
            expected,
            mark,
            secret: context.secrets.now().generation(),
        };
        Ok(Decision::Commit { next: Box::new(open::created(blank, operation.author(None))), reply: () })
    }
}

impl Change<Writer<'_>> for Opening<'_> {
    type Reply = ();

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        let decision = self.decide_on(writer, Some(&known.record), known.revision).await?;
        // A refusal is only correct if no earlier copy of this request opened the session.
        if matches!(decision, Decision::Refuse(_))
            && known.is_as_of(writer.operation.arrived)
            && was_opened_by(writer.context, known, writer.operation).await?
        {
            return Ok(Decision::Unchanged(()));
        }
        Ok(decision)
    }

    async fn decide_absent(&self, writer: &Writer<'_>, revision: Revision) -> Result<Decision<()>, Error> {
        self.decide_on(writer, None, revision).await
    }

    /// A new id costs no read: the write proves that it is new.
    fn guess(&self) -> Option<Found> {
        (!self.is_known && self.wanted.mode != Mode::Attach).then_some(Found::Nothing { revision: Revision(0) })
    }

    fn is_told(&self) -> bool {
        false
    }
}

/// Activates the agent of a new session.
async fn take_up(context: &Context, wanted: &Wanted, known: Known, operation: &Operation) -> Result<Known, Error> {
    let begun = begin(context, wanted, known.clone(), Beginning::Blank(wanted.content.clone()), operation).await;
    if let Err(refusal) = &begun
        && open::is_final(refusal)
    {
        unmake(context, &known, refusal, operation).await;
    }
    begun
}

/// Activates the session's agent, wherever the session is by then. Only the first owner may assume an empty log.
async fn begin(
    context: &Context,
    wanted: &Wanted,
    mut known: Known,
    mut beginning: Beginning,
    operation: &Operation,
) -> Result<Known, Error> {
    loop {
        match link::activate(context, &known, beginning, operation).await {
            Activated::Up => return Ok(known),
            Activated::Refused(refusal) => return Err(refusal),
            Activated::Elsewhere => beginning = Beginning::LogOr(wanted.content.clone()),
        }
        // A worker without a responder counts as alive until that is confirmed.
        operation.pause().await;
        known = place::place(context, &wanted.key, operation, &beginning).await?;
        if wanted.content.is_none() {
            return Ok(known);
        }
    }
}

/// Closes a new session that its worker refused, so that a refused open leaves no session.
async fn unmake(context: &Context, known: &Known, refusal: &Error, operation: &Operation) {
    let key = known.record.key();
    let reason: String = refusal.message.chars().take(context.config.limits.text_chars).collect();
    let unmaking = Unmaking { at: known.revision, reason: &reason };
    if let Err(not_done) = change(&mut Writer::new(context, &key, operation), &unmaking).await {
        let error = error::of_not_done(not_done, &key);
        tracing::info!(%key, %error, "a session that its worker refused was not closed");
    }
}

struct Unmaking<'a> {
    at: Revision,
    reason: &'a str,
}

impl Change<Writer<'_>> for Unmaking<'_> {
    type Reply = ();

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        let next = open::unmade(&known.record, writer.operation.author(Some(self.reason)));
        Ok(Decision::Commit { next: Box::new(next), reply: () })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }
}

/// Returns an existing session once a worker has it. Content is only for a session that this request created.
async fn existing(
    context: &Context,
    wanted: &Wanted,
    known: Known,
    operation: &Operation,
) -> Result<(Known, bool), Error> {
    let created = was_opened_by(context, &known, operation).await?;
    let beginning = if created { Beginning::LogOr(wanted.content.clone()) } else { Beginning::Log };
    let known = match ownership(&known.record, |owner| context.fleet.is_lost(owner)) {
        // The first copy of this request may have failed before it activated the agent.
        Ownership::Active(_) if created => begin(context, wanted, known, beginning, operation).await?,
        Ownership::Active(_) => known,
        Ownership::Passive | Ownership::Orphaned(_) | Ownership::Closed => {
            place::place(context, &wanted.key, operation, &beginning).await?
        }
    };
    Ok((known, created))
}

/// Whether an earlier copy of this request opened the current session.
///
/// # Errors
/// `no_session` when it opened an earlier session of this id, which has ended.
async fn was_opened_by(context: &Context, known: &Known, operation: &Operation) -> Result<bool, Error> {
    let key = known.record.key();
    if operation.by_caller && is_made_by(&known.record, &operation.request_id, &[EventType::SessionOpened]) {
        return Ok(true);
    }
    match opened_before(context, &key, known.revision, operation).await? {
        None => Ok(false),
        Some(life) if life == known.record.log_after => Ok(true),
        Some(_) => Err(Error::no_session(&key)),
    }
}

/// Which life of the session `key` an earlier copy of this request opened, according to the record's revisions up
/// to `revision`.
async fn opened_before(
    context: &Context,
    key: &SessionKey,
    revision: Revision,
    operation: &Operation,
) -> Result<Option<u64>, Error> {
    if !operation.by_caller || revision == Revision(0) || mutant::is(Mutant::LateOpenReopens) {
        return Ok(None);
    }
    let past = context.records.past(key, revision, operation.deadline).await?;
    Ok(past.opened_by(&operation.request_id).map(|opened| opened.log_after))
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
