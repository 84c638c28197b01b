//! No body makes a parser of requests panic. The first byte chooses the request.
#![no_main]

use holdfast_protocol::request::{
    Acquire, Close, DocGet, Drain, Edit, Empty, List, Load, Move, Open, Reclaim, Save, ShowToken, Takeover, Undo,
    Unlock, parse, peek,
};
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Limits, RequestId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else { return };
    let limits = Limits::default();
    let peeked = peek(body);
    assert!(peeked.request_id.is_none_or(|id| RequestId::parse(&id).is_ok()));
    match which % 17 {
        0 => drop(parse::<Open>(body, &limits).map(|open| open.target(&limits).map(drop))),
        1 => drop(parse::<Close>(body, &limits)),
        2 => drop(parse::<List>(body, &limits)),
        3 => drop(parse::<Acquire>(body, &limits)),
        4 => drop(parse::<ShowToken>(body, &limits)),
        5 => drop(parse::<Edit>(body, &limits)),
        6 => drop(parse::<Load>(body, &limits)),
        7 => drop(parse::<Save>(body, &limits)),
        8 => drop(parse::<Undo>(body, &limits)),
        9 => drop(parse::<DocGet>(body, &limits)),
        10 => drop(parse::<Takeover>(body, &limits)),
        11 => drop(parse::<Unlock>(body, &limits)),
        12 => drop(parse::<Move>(body, &limits)),
        13 => drop(parse::<Reclaim>(body, &limits)),
        14 => drop(parse::<Drain>(body, &limits)),
        15 => drop(parse::<Empty>(body, &limits)),
        _ => {
            let Ok(subject) = std::str::from_utf8(body) else { return };
            drop(Root::default().parse_agent(subject));
            drop(Root::default().parse_record(subject));
        }
    }
});
