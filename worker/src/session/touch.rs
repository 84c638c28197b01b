//! `session.touch`: a sign that the session is in use.

use holdfast_protocol::reply::Touched;
use holdfast_protocol::request::{Empty, parse};

use super::Agent;
use super::commit::refused;
use super::decide::done;
use crate::letter::{Answer, Letter};

impl Agent {
    pub(super) fn answer_touch(&self, letter: &Letter) -> Answer {
        match parse::<Empty>(&letter.payload, &self.core.limits) {
            Ok(_) => {
                self.touch();
                done(&Touched { session_id: self.key.id.clone(), state: self.record.state })
            }
            Err(error) => refused(&error, &letter.request_id),
        }
    }
}
