//! Recent requests and their answers, so that a retry gets the first answer. Part of the session's state.
//!
//! Invariant: it goes over the ends of a session's lives. A session that is opened anew over a closed one remembers
//! what that one answered, so that a late copy of a change changes nothing; its own answers push out the oldest of
//! those.

use std::collections::{HashMap, VecDeque};

use holdfast_protocol::RequestId;
use holdfast_protocol::frame::{Frame, Remembered};
use serde_json::value::RawValue;

/// How many are remembered per session.
pub(crate) const REMEMBERED: usize = 1024;

/// Answers by request, the oldest forgotten first.
#[derive(Default)]
pub(crate) struct Answered {
    replies: HashMap<RequestId, Box<RawValue>>,
    order: VecDeque<RequestId>,
}

impl Answered {
    pub(crate) fn get(&self, request_id: &RequestId) -> Option<&RawValue> {
        self.replies.get(request_id).map(|reply| &**reply)
    }

    pub(crate) fn remember(&mut self, request_id: RequestId, reply: Box<RawValue>) {
        if self.replies.insert(request_id.clone(), reply).is_none() {
            self.order.push_back(request_id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.replies.remove(&oldest);
        }
    }

    /// What a frame of an earlier life of the session answered.
    pub(crate) fn remember_all(&mut self, frame: &Frame) {
        for Remembered { request_id, reply } in frame.snapshot.iter().flat_map(|snapshot| &snapshot.answered) {
            self.remember(request_id.clone(), reply.clone());
        }
        for op in frame.ops.iter().filter(|op| op.answers()) {
            self.remember(op.request_id.clone(), op.reply.clone());
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<Remembered> {
        let remembered = |request_id: &RequestId| {
            let reply = self.replies.get(request_id)?.clone();
            Some(Remembered { request_id: request_id.clone(), reply })
        };
        self.order.iter().filter_map(remembered).collect()
    }

    pub(crate) fn restore(answers: Vec<Remembered>) -> Self {
        let mut answered = Self::default();
        for Remembered { request_id, reply } in answers {
            answered.remember(request_id, reply);
        }
        answered
    }
}
