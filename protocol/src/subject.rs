//! Builds and parses every subject, bucket name and stream name that Holdfast uses.
//!
//! Invariant: each name that is built here parses back to its parts. Requests are `<root>.<ns>.<group>.<verb>[.<id>]`.
//! Everything internal is below the reserved `<root>.sys`, except the logs, `<root>.log.<ns>.<id>`, which share the
//! record's stream.

use std::fmt;

use crate::error::{Error, Reason};
use crate::id::{Boot, Namespace, SessionId, SessionKey, WorkerName};

/// The subject root of an installation, `hf` by default; buckets and streams take their names from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Root(Box<str>);

impl Default for Root {
    fn default() -> Self {
        Self("hf".into())
    }
}

impl Root {
    /// Checks a root: one subject token of 1 to 32 of a-z, 0-9, _ and -.
    ///
    /// # Errors
    /// `bad_value`, naming the rule.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Namespace::parse(text)
            .map(|_| Self(text.into()))
            .map_err(|_| Error::invalid(Reason::BadValue, "the subject root is 1 to 32 of a-z, 0-9, _ and -"))
    }

    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `name` for the default root, `<root>_name` for others, so that two installations can share a NATS account.
    fn named(&self, name: &str) -> String {
        if &*self.0 == "hf" { name.to_owned() } else { format!("{}_{name}", self.0) }
    }

    /// The KV bucket of session records.
    pub fn sessions_bucket(&self) -> String {
        self.named("sessions")
    }

    /// The KV bucket of workers' leases.
    pub fn workers_bucket(&self) -> String {
        self.named("workers")
    }

    /// The KV bucket of secrets, which only coordinators may read.
    pub fn secrets_bucket(&self) -> String {
        self.named("secrets")
    }

    /// The stream behind the bucket of sessions; their logs are in it too.
    pub fn sessions_stream(&self) -> String {
        format!("KV_{}", self.sessions_bucket())
    }

    /// The stream that keeps `session` and `lock` signals.
    pub fn signals_stream(&self) -> String {
        self.named("HF_SIGNALS")
    }

    /// The stream that keeps the acts of operators that leave no signal.
    pub fn audit_stream(&self) -> String {
        self.named("HF_AUDIT")
    }

    /// The subject of a session's record.
    pub fn record(&self, key: &SessionKey) -> String {
        format!("$KV.{}.{key}", self.sessions_bucket())
    }

    /// The subject of the relay's checkpoint. It is in the bucket that only coordinators read and write.
    pub fn relay_checkpoint(&self) -> String {
        format!("$KV.{}.relayed", self.secrets_bucket())
    }

    /// The subject of the note that a repair after a restored backup leaves. Its key has one token, so it is no
    /// session's.
    pub fn restore_note(&self) -> String {
        format!("$KV.{}.restored", self.sessions_bucket())
    }

    /// All records, or those of one namespace.
    pub fn records(&self, namespace: Option<&Namespace>) -> String {
        match namespace {
            Some(namespace) => format!("$KV.{}.{namespace}.*", self.sessions_bucket()),
            None => format!("$KV.{}.>", self.sessions_bucket()),
        }
    }

    /// The subject of a session's log.
    pub fn log(&self, key: &SessionKey) -> String {
        format!("{}.log.{key}", self.0)
    }

    /// All logs of one namespace.
    pub fn logs_of(&self, namespace: &Namespace) -> String {
        format!("{}.log.{namespace}.*", self.0)
    }

    /// All logs. Exactly two tokens after `log`: with `>` the stream would overlap the stream of signals.
    pub fn logs(&self) -> String {
        format!("{}.log.*.*", self.0)
    }

    /// The subjects of the stream of sessions.
    pub fn sessions_stream_subjects(&self) -> Vec<String> {
        vec![self.records(None), self.logs()]
    }

    /// The subjects that the stream of signals takes. It stores each message under the signal's own subject; see
    /// [`Root::signals_stream_transform`].
    pub fn signals_stream_subjects(&self) -> Vec<String> {
        vec![format!("{}.sys.keep.*.*.*.*", self.0)]
    }

    /// The subjects that the stream of signals took in earlier versions, sorted.
    pub fn signals_stream_subjects_before(&self) -> [String; 2] {
        ["lock", "session"].map(|group| format!("{}.*.signal.*.{group}.*", self.0))
    }

    /// From which subject to which the stream of signals changes the subjects of what it takes.
    pub fn signals_stream_transform(&self) -> (String, String) {
        let wildcard = |number: u8| format!("{{{{wildcard({number})}}}}");
        let [namespace, id, group, event] = [1, 2, 3, 4].map(wildcard);
        (format!("{}.sys.keep.*.*.*.*", self.0), format!("{}.{namespace}.signal.{id}.{group}.{event}", self.0))
    }

    /// The subject on which a signal is given to the stream of signals.
    pub fn kept_signal(&self, key: &SessionKey, group: &str, event: &str) -> String {
        format!("{}.sys.keep.{}.{}.{group}.{event}", self.0, key.namespace, key.id)
    }

    /// The subject under which the stream of signals stores what it takes on `subject`.
    pub fn stored_signal(&self, subject: &str) -> Option<String> {
        let kept = subject.strip_prefix(self.as_str())?.strip_prefix(".sys.keep.")?;
        let [namespace, id, group, event] = *kept.split('.').collect::<Vec<_>>() else { return None };
        Some(format!("{}.{namespace}.signal.{id}.{group}.{event}", self.0))
    }

    /// The subjects of the stream of acts.
    pub fn audit_stream_subjects(&self) -> Vec<String> {
        vec![self.acts()]
    }

    /// The subject of acts that are this event, like `worker.drained`.
    pub fn act(&self, event: &str) -> String {
        format!("{}.sys.audit.{event}", self.0)
    }

    /// All acts.
    pub fn acts(&self) -> String {
        format!("{}.sys.audit.>", self.0)
    }

    /// A signal of one session.
    pub fn signal(&self, key: &SessionKey, group: &str, event: &str) -> String {
        format!("{}.{}.signal.{}.{group}.{event}", self.0, key.namespace, key.id)
    }

    /// All signals of one session, or of one group of it.
    pub fn signals(&self, key: &SessionKey, group: Option<&str>) -> String {
        let tail = group.map_or(">".to_owned(), |group| format!("{group}.>"));
        format!("{}.{}.signal.{}.{tail}", self.0, key.namespace, key.id)
    }

    /// The signals of all sessions, or of those of one namespace: of one group and event, or of all.
    pub fn signals_of_all(&self, namespace: Option<&Namespace>, group: Option<&str>, event: Option<&str>) -> String {
        let namespace = namespace.map_or("*", Namespace::as_str);
        format!("{}.{namespace}.signal.*.{}.{}", self.0, group.unwrap_or("*"), event.unwrap_or("*"))
    }

    /// A request about one session.
    pub fn session_request(&self, verb: Verb, key: &SessionKey) -> String {
        format!("{}.{}.{verb}.{}", self.0, key.namespace, key.id)
    }

    /// A request about a namespace as a whole (`session.open`, `session.list`, `admin.reclaim`).
    pub fn namespace_request(&self, verb: Verb, namespace: &Namespace) -> String {
        format!("{}.{namespace}.{verb}", self.0)
    }

    /// A request about workers, or about the installation.
    pub fn sys_request(&self, verb: Verb, worker: Option<&WorkerName>) -> String {
        match worker {
            Some(worker) => format!("{}.sys.{verb}.{worker}", self.0),
            None => format!("{}.sys.{verb}", self.0),
        }
    }

    /// The subject of the coordinators' endpoint for `verb`.
    pub fn endpoint(&self, verb: Verb) -> String {
        match verb.target() {
            Target::Session => format!("{}.*.{verb}.*", self.0),
            Target::Namespace => format!("{}.*.{verb}", self.0),
            Target::Worker => format!("{}.sys.{verb}.*", self.0),
            Target::Fleet => format!("{}.sys.{verb}", self.0),
        }
    }

    /// The subjects below all request prefixes. They also match requests with an unknown verb or a malformed id.
    pub fn catch_all(&self) -> Vec<String> {
        ["session", "lock", "doc", "admin", "worker"].iter().map(|group| format!("{}.*.{group}.>", self.0)).collect()
    }

    /// A message of a coordinator to the agent of one session, on one boot of a worker.
    pub fn agent(&self, worker: &WorkerName, boot: Boot, key: &SessionKey, call: &str) -> String {
        format!("{}.sys.agent.{worker}.{boot}.{}.{}.{call}", self.0, key.namespace, key.id)
    }

    /// Everything sent to the agents of one boot of a worker.
    pub fn agents(&self, worker: &WorkerName, boot: Boot) -> String {
        format!("{}.sys.agent.{worker}.{boot}.>", self.0)
    }

    /// A message of a coordinator to one boot of a worker as a whole.
    pub fn worker_control(&self, worker: &WorkerName, boot: Boot, call: &str) -> String {
        format!("{}.sys.control.{worker}.{boot}.{call}", self.0)
    }

    /// Everything sent to one boot of a worker as a whole.
    pub fn worker_controls(&self, worker: &WorkerName, boot: Boot) -> String {
        format!("{}.sys.control.{worker}.{boot}.*", self.0)
    }

    /// A message to all coordinators. No boot of a worker is named `all`.
    pub fn coordinators(&self, call: &str) -> String {
        format!("{}.sys.control.coordinators.all.{call}", self.0)
    }

    /// The subject of the relay's progress.
    pub fn relay_floor(&self) -> String {
        format!("{}.sys.relay.floor", self.0)
    }

    /// A request for the lock of a session that a leaving coordinator passes on to another one.
    pub fn waiter(&self, key: &SessionKey) -> String {
        format!("{}.sys.waiter.{}.{}", self.0, key.namespace, key.id)
    }

    /// All requests that are passed on.
    pub fn waiters(&self) -> String {
        format!("{}.sys.waiter.*.*", self.0)
    }

    /// The session of a subject of [`Root::waiter`].
    pub fn parse_waiter(&self, subject: &str) -> Option<SessionKey> {
        parse_key(subject.strip_prefix(&*self.0)?.strip_prefix(".sys.waiter.")?)
    }

    /// Coordinators tell each other here that the secret of tokens was changed.
    pub fn secret_changed(&self) -> String {
        format!("{}.sys.secret.changed", self.0)
    }

    /// Whether an answer may be published to `reply`, which the client chose. Below `$` and below this root are
    /// records, logs, signals and requests: an answer there would write for the client, past the client's permissions.
    pub fn may_answer(&self, reply: &str) -> bool {
        let is_below_root = reply.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        !reply.starts_with('$') && !is_below_root
    }

    /// Parses a request's subject.
    ///
    /// # Errors
    /// `bad_value` for an unknown verb or a malformed namespace, `missing_field` for a missing id, `invalid_session_id`
    /// for a malformed one.
    pub fn parse_request(&self, subject: &str) -> Result<RequestSubject, Error> {
        let tokens: Vec<&str> = subject.split('.').collect();
        let [root, namespace, group, rest @ ..] = tokens.as_slice() else {
            return Err(unknown_verb(subject));
        };
        if *root != &*self.0 {
            return Err(unknown_verb(subject));
        }
        let (verb, ids) = match rest {
            [name, ids @ ..] => (Verb::parse(group, name).ok_or_else(|| unknown_verb(subject))?, ids),
            [] => return Err(unknown_verb(subject)),
        };
        let fleet_wide = matches!(verb.target(), Target::Worker | Target::Fleet);
        if fleet_wide != (*namespace == "sys") {
            return Err(match fleet_wide {
                true => Error::invalid(Reason::BadValue, format!("{verb} is asked below {root}.sys")),
                false => Error::invalid(Reason::BadValue, "the namespace \"sys\" is reserved"),
            });
        }
        match (verb.target(), ids) {
            (Target::Session, []) => Err(Error::invalid(
                Reason::MissingField,
                format!("{verb} needs a session id as the last token of its subject"),
            )),
            (Target::Worker, []) => Err(Error::invalid(
                Reason::MissingField,
                format!("{verb} needs a worker's name as the last token of its subject"),
            )),
            (Target::Session, ids) => {
                let id = SessionId::parse(&ids.join("."))?;
                Ok(RequestSubject::Session(verb, SessionKey::new(Namespace::parse_open(namespace)?, id)))
            }
            (Target::Worker, ids) => Ok(RequestSubject::Worker(verb, WorkerName::parse(&ids.join("."))?)),
            (Target::Namespace, []) => Ok(RequestSubject::Namespace(verb, Namespace::parse_open(namespace)?)),
            (Target::Fleet, []) => Ok(RequestSubject::Fleet(verb)),
            (_, _) => Err(Error::invalid(Reason::BadValue, format!("{verb} takes no id in its subject"))),
        }
    }

    /// The session and call of a subject below [`Root::agents`].
    pub fn parse_agent<'a>(&self, subject: &'a str) -> Option<(SessionKey, &'a str)> {
        let rest = subject.strip_prefix(&*self.0)?.strip_prefix(".sys.agent.")?;
        let mut tokens = rest.splitn(5, '.').skip(2);
        let namespace = Namespace::parse(tokens.next()?).ok()?;
        let id = SessionId::parse(tokens.next()?).ok()?;
        Some((SessionKey::new(namespace, id), tokens.next()?))
    }

    /// The session of a record's subject.
    pub fn parse_record(&self, subject: &str) -> Option<SessionKey> {
        let key = subject.strip_prefix("$KV.")?.strip_prefix(&self.sessions_bucket())?.strip_prefix('.')?;
        parse_key(key)
    }

    /// The session of a log's subject.
    pub fn parse_log(&self, subject: &str) -> Option<SessionKey> {
        parse_key(subject.strip_prefix(&*self.0)?.strip_prefix(".log.")?)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse_key(key: &str) -> Option<SessionKey> {
    let (namespace, id) = key.split_once('.')?;
    Some(SessionKey::new(Namespace::parse(namespace).ok()?, SessionId::parse(id).ok()?))
}

fn unknown_verb(subject: &str) -> Error {
    let shown: String = subject.chars().take(200).collect();
    Error::invalid(Reason::BadValue, format!("no request is named {shown:?}"))
}

/// A parsed request subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestSubject {
    /// One session.
    Session(Verb, SessionKey),
    /// A namespace as a whole.
    Namespace(Verb, Namespace),
    /// One worker.
    Worker(Verb, WorkerName),
    /// All workers, or the installation.
    Fleet(Verb),
}

impl RequestSubject {
    /// The verb.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Session(verb, _) | Self::Namespace(verb, _) | Self::Worker(verb, _) | Self::Fleet(verb) => *verb,
        }
    }
}

/// The object of a verb, which decides the shape of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `<root>.<ns>.<verb>.<id>`
    Session,
    /// `<root>.<ns>.<verb>`
    Namespace,
    /// `<root>.sys.<verb>.<worker>`
    Worker,
    /// `<root>.sys.<verb>`
    Fleet,
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $group:literal . $verb:literal, $target:ident;)*) => {
        /// Every request of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Verb { $($(#[$doc])* $name),* }

        impl Verb {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// `group.verb`, as in the subject.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => concat!($group, ".", $verb)),* }
            }

            /// Its object.
            pub fn target(self) -> Target {
                match self { $(Self::$name => Target::$target),* }
            }

            fn parse(group: &str, verb: &str) -> Option<Self> {
                match (group, verb) { $(($group, $verb) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

verbs!(
    /// Finds or creates a session.
    SessionOpen = "session"."open", Namespace;
    /// Shows one session.
    SessionGet = "session"."get", Session;
    /// Lists a namespace's sessions.
    SessionList = "session"."list", Namespace;
    /// Counts as activity.
    SessionTouch = "session"."touch", Session;
    /// Ends a session.
    SessionClose = "session"."close", Session;
    /// Takes the lock.
    LockAcquire = "lock"."acquire", Session;
    /// Checks a token.
    LockValidate = "lock"."validate", Session;
    /// Restarts a lock's lease.
    LockRenew = "lock"."renew", Session;
    /// Releases the lock.
    LockRelease = "lock"."release", Session;
    /// Reads the document.
    DocGet = "doc"."get", Session;
    /// Changes the document.
    DocEdit = "doc"."edit", Session;
    /// Reads the file again.
    DocLoad = "doc"."load", Session;
    /// Writes the file.
    DocSave = "doc"."save", Session;
    /// Undoes the last change.
    DocUndo = "doc"."undo", Session;
    /// Redoes an undone change.
    DocRedo = "doc"."redo", Session;
    /// Takes the lock from whoever holds it.
    AdminTakeover = "admin"."takeover", Session;
    /// Frees the lock, whoever holds it.
    AdminUnlock = "admin"."unlock", Session;
    /// Shows what a takeover, an unlock or a move would hit.
    AdminPreview = "admin"."preview", Session;
    /// Moves a session to another worker.
    AdminMove = "admin"."move", Session;
    /// Reclaims idle sessions.
    AdminReclaim = "admin"."reclaim", Namespace;
    /// Changes the secret that tokens are derived from.
    AdminRotateSecret = "admin"."rotate_secret", Fleet;
    /// Lists the workers.
    WorkerList = "worker"."list", Fleet;
    /// Drains a worker.
    WorkerDrain = "worker"."drain", Worker;
    /// Lets a worker take sessions again.
    WorkerUndrain = "worker"."undrain", Worker;
);

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Verb {
    /// Whether the session's agent answers it. Coordinators relay such requests without parsing them.
    pub fn is_relayed(self) -> bool {
        matches!(
            self,
            Self::SessionTouch
                | Self::SessionClose
                | Self::LockRenew
                | Self::DocGet
                | Self::DocEdit
                | Self::DocLoad
                | Self::DocSave
                | Self::DocUndo
                | Self::DocRedo
        )
    }

    /// Whether it is an operator's, and leaves a line in the audit log.
    pub fn is_audited(self) -> bool {
        matches!(
            self,
            Self::AdminTakeover
                | Self::AdminUnlock
                | Self::AdminMove
                | Self::AdminReclaim
                | Self::AdminRotateSecret
                | Self::WorkerDrain
                | Self::WorkerUndrain
        )
    }

    /// Whether it changes nothing, so that it can be repeated.
    pub fn is_read(self) -> bool {
        matches!(
            self,
            Self::SessionGet
                | Self::SessionList
                | Self::LockValidate
                | Self::DocGet
                | Self::AdminPreview
                | Self::WorkerList
        )
    }

    /// The verb of `group.verb`, as [`Verb::as_str`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        let (group, verb) = name.split_once('.')?;
        Self::parse(group, verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RESERVED_NAMESPACES;

    fn reason(subject: &str) -> Reason {
        Root::default().parse_request(subject).unwrap_err().reason
    }

    #[test]
    fn malformed_subjects_say_what_is_wrong() {
        assert_eq!(reason("hf.default.session.frobnicate"), Reason::BadValue);
        assert_eq!(reason("hf.default.session.get"), Reason::MissingField);
        assert_eq!(reason("hf.default.session.get.a.b"), Reason::InvalidSessionId);
        assert_eq!(reason("hf.default.lock.acquire.$"), Reason::InvalidSessionId);
        assert_eq!(reason("hf.default.session.open.s1"), Reason::BadValue);
        assert_eq!(reason("hf.Default.session.open"), Reason::BadValue);
        assert_eq!(reason("hf.sys.session.open"), Reason::BadValue);
        for namespace in RESERVED_NAMESPACES {
            assert_eq!(reason(&format!("hf.{namespace}.session.get.s1")), Reason::BadValue);
            assert_eq!(reason(&format!("hf.{namespace}.session.open")), Reason::BadValue);
        }
        assert_eq!(reason("hf.default.worker.list"), Reason::BadValue);
        assert_eq!(reason("hf.sys.worker.drain"), Reason::MissingField);
    }

    #[test]
    fn nothing_is_answered_where_holdfast_or_the_server_listens() {
        let root = Root::default();
        for reply in
            ["$KV.sessions.default.s1", "$JS.API.STREAM.PURGE.KV_sessions", "$", "hf.log.default.s1", "hf", "hf."]
        {
            assert!(!root.may_answer(reply), "{reply}");
        }
        for reply in ["_INBOX.abc.1", "_R_.x.y", "hfx.log.default.s1", "app.replies", "a.hf.b"] {
            assert!(root.may_answer(reply), "{reply}");
        }
    }

    #[test]
    fn stream_subjects_do_not_overlap_those_of_signals() {
        let root = Root::default();
        assert_eq!(root.logs().split('.').count(), 4);
        assert!(root.signals_stream_subjects().iter().all(|subject| subject.split('.').count() == 7));
    }
}
