//! What coordinators ask a worker as a whole: reclaim, drain, resolve a path, and whether it is there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Message;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::{
    AskIdle, FilePath, IdleTimes, ReclaimIdle, ReclaimedIdle, SetState, StateSet, control,
};
use holdfast_protocol::reply::{Drained, WorkerState};
use holdfast_protocol::{Error, RequestId};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::Subscription;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use crate::drain;
use crate::letter::{Answer, Passivation, ReplyTo, Who};

/// How many sessions are reclaimed at once.
const RECLAIM_PARALLEL: usize = 64;

/// How many answers are remembered for late copies, and how many bytes of them.
const REMEMBERED: usize = 256;
const REMEMBERED_BYTES: usize = 4 * 1024 * 1024;

/// One request to this process. An id that is used again for another call, or for another namespace, is another
/// request.
#[derive(PartialEq, Eq)]
struct Asked {
    /// Which call, and of what.
    call: String,
    request_id: RequestId,
}

impl Asked {
    fn reclaim(request: &ReclaimIdle) -> Self {
        Self { call: format!("{} {}", control::RECLAIM, request.namespace), request_id: request.request_id.clone() }
    }

    fn set_state(request: &SetState) -> Option<Self> {
        let request_id = request.request_id.clone()?;
        Some(Self { call: format!("{} {:?}", control::STATE, request.state), request_id })
    }
}

/// What was asked of this process and answered, the latest last: a late copy of a drain must not empty it again.
#[derive(Default)]
pub(super) struct Answered {
    answers: Mutex<VecDeque<(Asked, Bytes)>>,
    /// One reclaim at a time, so that a copy that comes while the first is at work is answered as that one is.
    reclaiming: tokio::sync::Mutex<()>,
}

impl Answered {
    fn all(&self) -> MutexGuard<'_, VecDeque<(Asked, Bytes)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get<T: DeserializeOwned>(&self, asked: &Asked) -> Option<T> {
        let found = self.all().iter().find(|(answered, _)| answered == asked).map(|(_, json)| json.clone())?;
        serde_json::from_slice(&found).ok()
    }

    fn remember<T: Serialize>(&self, asked: Asked, answer: &T) {
        let Ok(json) = serde_json::to_vec(answer) else { return };
        let mut all = self.all();
        all.push_back((asked, json.into()));
        let mut bytes: usize = all.iter().map(|(_, json)| json.len()).sum();
        while all.len() > 1 && (all.len() > REMEMBERED || bytes > REMEMBERED_BYTES) {
            bytes -= all.pop_front().map_or(0, |(_, json)| json.len());
        }
    }
}

impl Shared {
    async fn reclaim_once(&self, request: ReclaimIdle) -> ReclaimedIdle {
        let asked = Asked::reclaim(&request);
        let _turn = self.answered.reclaiming.lock().await;
        if let Some(reclaimed) = self.answered.get(&asked) {
            return reclaimed;
        }
        let reclaimed = self.reclaim(request).await;
        self.answered.remember(asked, &reclaimed);
        reclaimed
    }

    fn set_state_once(self: &Arc<Self>, request: &SetState, tasks: &TaskTracker) -> StateSet {
        let asked = Asked::set_state(request);
        let before = asked.as_ref().filter(|_| !mutant::is(Mutant::LateDrainDrains));
        let before = before.and_then(|asked| self.answered.get(asked));
        if let Some(drained) = before {
            return StateSet { drained, late: true };
        }
        let drained = self.set_state(request, tasks);
        if let Some(asked) = asked {
            self.answered.remember(asked, &drained);
        }
        StateSet { drained, late: false }
    }

    async fn reclaim(&self, request: ReclaimIdle) -> ReclaimedIdle {
        let keys = self.supervisor.idle_keys(&request.namespace, request.max_idle_ms);
        let who = Who { actor: request.actor, actor_proven: request.actor_proven };
        let why = Passivation::Reclaimed { max_idle_ms: request.max_idle_ms, who };
        let reclaims = stream::iter(keys).map(|key| {
            let why = why.clone();
            async move {
                // One that went another way meanwhile was not reclaimed, and one that became busy is not.
                let answer = drain::ask(&self.supervisor, key.clone(), why).await;
                matches!(answer, Some(Answer::Done(_))).then_some(key.id)
            }
        });
        let reclaimed = reclaims.buffer_unordered(RECLAIM_PARALLEL).filter_map(std::future::ready).collect().await;
        ReclaimedIdle { reclaimed }
    }

    /// Follows the symbolic links of a path that a session is asked for.
    async fn resolve(&self, asked: FilePath) -> Result<FilePath, Error> {
        let Some(mount) = self.core.mounts.get(&asked.workspace) else {
            return Err(Error::new(Reason::NoWorkspace, format!("this worker has no workspace {}", asked.workspace)));
        };
        let path = crate::document::resolve(mount.clone(), &asked.path, &self.core.limits).await?;
        Ok(FilePath { path, ..asked })
    }

    fn set_state(self: &Arc<Self>, request: &SetState, tasks: &TaskTracker) -> Drained {
        let mut running = self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = request.state == WorkerState::Draining;
        self.set_draining(draining);
        if let Some(stop) = running.take_if(|_| !draining) {
            stop.cancel();
        }
        if draining && running.as_ref().is_none_or(CancellationToken::is_cancelled) {
            let stop = CancellationToken::new();
            *running = Some(stop.clone());
            let shared = self.clone();
            let reason = request.reason.clone();
            let who = Who { actor: request.actor.clone(), actor_proven: request.actor_proven.clone() };
            let abort = self.abort.clone();
            let emptying = async move {
                let goes_on = || !stop.is_cancelled();
                let drain = shared.drain_all(who);
                shared.while_shown(drain.run(&*shared.store, &reason, goes_on)).await;
                stop.cancel();
            };
            tasks.spawn(abort.run_until_cancelled_owned(emptying));
        }
        Drained {
            worker: self.core.config.name.clone(),
            state: self.state(),
            sessions_left: self.supervisor.len() as u64,
        }
    }
}

/// Answers calls to the worker as a whole until `stop`.
pub(super) async fn read(shared: Arc<Shared>, mut messages: Subscription, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        let shared = shared.clone();
        let (of_drains, abort) = (tasks.clone(), shared.abort.clone());
        let answering = async move { answer(&shared, message, &of_drains).await };
        tasks.spawn(abort.run_until_cancelled_owned(answering));
    }
}

async fn answer(shared: &Arc<Shared>, message: Message, tasks: &TaskTracker) {
    let root = &shared.core.config.root;
    let Some(reply) = message.reply.clone().filter(|reply| root.may_answer(reply)) else { return };
    let said = match message.subject.rsplit('.').next() {
        Some(control::RECLAIM) => match serde_json::from_slice(&message.payload) {
            Ok(request) => json(&shared.reclaim_once(request).await),
            Err(error) => bug(&error.to_string()),
        },
        Some(control::IDLE) => match serde_json::from_slice(&message.payload) {
            Ok(AskIdle { namespace, ids }) => {
                json(&IdleTimes { idle_ms: shared.supervisor.idle_times(&namespace, &ids) })
            }
            Err(error) => bug(&error.to_string()),
        },
        Some(control::STATE) => match serde_json::from_slice(&message.payload) {
            Ok(request) => json(&shared.set_state_once(&request, tasks)),
            Err(error) => bug(&error.to_string()),
        },
        Some(control::RESOLVE) => match serde_json::from_slice(&message.payload) {
            Ok(request) => shared.resolve(request).await.map_or_else(refused, |real| json(&real)),
            Err(error) => bug(&error.to_string()),
        },
        // Whoever is to have this worker's name wants to know whether this process lives.
        Some(control::PING) => json(&shared.lease()),
        _ => bug("no such call"),
    };
    ReplyTo::Nats(shared.wire.clone(), reply).send(said).await;
}

fn json<T: Serialize>(reply: &T) -> Answer {
    match serde_json::to_vec(reply) {
        Ok(json) => Answer::Done(json.into()),
        Err(error) => bug(&error.to_string()),
    }
}

fn bug(why: &str) -> Answer {
    refused(Error::new(Reason::Bug, format!("a coordinator's call failed: {why}")))
}

fn refused(error: Error) -> Answer {
    Answer::Refused(Box::new(error))
}
