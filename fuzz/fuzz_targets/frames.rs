//! No stored frame makes its reader panic, and what reads is the same when it is written and read again.
#![no_main]

use holdfast_protocol::frame::Frame;
use holdfast_protocol::subject::Root;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(key) = Root::default().parse_record("$KV.sessions.default.s1") else { return };
    let Ok(frame) = Frame::from_json(data, &key) else { return };
    let json = frame.to_json();
    let again = Frame::from_json(&json, &key).expect("a frame is a frame");
    assert_eq!(again.to_json(), json);
    for seen in [0, 1, frame.first_op, frame.first_op.wrapping_sub(1), u64::MAX] {
        drop(again.unseen(seen, &key).map(|ops| ops.len()));
    }
});
