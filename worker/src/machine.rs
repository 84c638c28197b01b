//! What a kind of session is to its agent: a state machine. Implement [`Kind`] and [`Machine`] to host one of your own,
//! as `examples/counter` does.
//!
//! Invariant: the state after a log is a function of the log alone. `apply` reads no clock, file or random number; what
//! needs those happens in `decide`, whose result is a change that says all there is to know.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use holdfast_files::Mount;
use holdfast_protocol::document::Content;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, RequestId, SessionRecord, Token};
use serde_json::value::RawValue;

/// What a session is in.
#[derive(Clone)]
pub struct Surroundings {
    /// Limits of requests.
    pub limits: Arc<Limits>,
    /// The workspace of the session's file, where it has one and this worker mounts it.
    pub workspace: Option<Arc<Mount>>,
}

/// Makes machines.
pub trait Kind: Send + Sync + 'static {
    /// A machine in its initial state, before any change, for the session of `record`.
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine>;
}

/// What a request needs before it is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// The state as this agent knows it.
    Read,
    /// The state, and the proof that this agent owns it.
    LinearizableRead,
    /// The lock's token, or a free lock.
    Write {
        /// The token shown.
        token: Option<Token>,
    },
}

/// A parsed request.
pub struct Ask {
    /// What it asks for.
    pub verb: Verb,
    /// What it needs.
    pub access: Access,
    /// The caller's idempotency key.
    pub request_id: Option<RequestId>,
    /// Who asks.
    pub actor: Option<String>,
    /// The parsed body, in the machine's own type.
    pub body: Box<dyn Any + Send + Sync>,
}

/// What a machine wants to do.
#[derive(Debug)]
pub enum Decision {
    /// Nothing changes.
    Reply(Box<RawValue>),
    /// Commit `change`, then answer with `reply`.
    Change(Change),
}

/// A change that is decided and not yet committed.
#[derive(Debug)]
pub struct Change {
    /// What `apply` will be told, now and at every replay.
    pub change: Box<RawValue>,
    /// What its signal says.
    pub event: Option<OpEvent>,
    /// The answer once it is committed.
    pub reply: Box<RawValue>,
    /// What a retry of the request gets.
    pub memory: Memory,
}

/// What is remembered of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The answer.
    Answer,
    /// Only that it was given: it is large, and a retry gets [`Machine::view`] instead.
    Occurrence,
}

/// A change of something outside of the log, which no storage can refuse or take back.
pub struct Effect {
    /// What the log must say before anything is changed, so that whoever has the session after a crash can tell its own work
    /// from another's.
    pub intent: Box<RawValue>,
    /// What the log is told if nothing comes of it.
    pub nothing: Box<RawValue>,
    /// The work.
    pub work: Box<dyn Work>,
}

/// The work of an [`Effect`].
#[async_trait]
pub trait Work: Send {
    /// Does all that changes nothing that anybody sees, while the intent is on its way to the log.
    ///
    /// # Errors
    /// Any refusal of the contract.
    async fn prepare(&mut self) -> Result<(), Error>;

    /// Makes the change, whose intent is in the log now. Once this returns it is made for good, and the log is told of it: by
    /// the change returned, or, should that not come to the log, by [`Machine::look`].
    ///
    /// # Errors
    /// Any refusal of the contract.
    async fn finish(self: Box<Self>) -> Result<Change, Unfinished>;
}

/// Why a change outside of the log was not made.
pub enum Unfinished {
    /// Nothing was changed.
    Refused(Error),
    /// It may be half way: only a look can tell.
    Unsure(Error),
}

/// What a machine noticed outside of the log.
pub struct Noticed {
    /// The request whose doing it was, if it was one's.
    pub request_id: Option<RequestId>,
    /// What the log should have of it.
    pub change: Change,
}

/// The state of one session.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Reads a request's body.
    ///
    /// # Errors
    /// The contract's `invalid_params` and `too_large`.
    fn parse(&self, verb: Verb, payload: &[u8]) -> Result<Ask, Error>;

    /// Decides a request on the present state, which it does not change. The lock has been checked.
    ///
    /// # Errors
    /// Any refusal of the contract.
    async fn decide(&self, ask: &Ask) -> Result<Decision, Error>;

    /// What a request does that changes something outside of the log. The lock has been checked.
    ///
    /// # Errors
    /// Any refusal of the contract.
    fn effect(&self, ask: &Ask) -> Result<Effect, Error> {
        Err(Error::new(Reason::Bug, format!("{} has no effect outside of this machine", ask.verb)))
    }

    /// What the session begins with: `content` of its opener, or a file. `None`: the initial state.
    ///
    /// # Errors
    /// `filesystem` and `no_workspace`.
    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error>;

    /// Makes a change.
    ///
    /// # Errors
    /// `record_invalid` when the change cannot be made, which means that the log is not one of this machine.
    fn apply(&mut self, change: &RawValue) -> Result<(), Error>;

    /// The whole state.
    fn snapshot(&self) -> Box<RawValue>;

    /// Takes the state of a snapshot.
    ///
    /// # Errors
    /// `record_invalid` when it is not one of this machine.
    fn restore(&mut self, state: &RawValue) -> Result<(), Error>;

    /// The whole state as a reader sees it.
    fn view(&self) -> Box<RawValue>;

    /// Counts accepted changes from 0.
    fn revision(&self) -> u64;

    /// Why ending the session now would lose something that a file should have; `None`: it would not.
    fn unsaved_changes(&self) -> Option<Error> {
        None
    }

    /// Looks at what is outside of the log: the state was just built from it, or something happened there. What the log should
    /// know of it, in a word or none.
    async fn look(&self) -> Option<Noticed> {
        None
    }
}
