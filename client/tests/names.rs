//! What a client reads is read by the rules of the contract: no name in it has a meaning to the JSON library.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_client::protocol::error::ErrorReply;
use holdfast_client::protocol::reply::Document;
use holdfast_client::protocol::signal::Signal;

const RAW: &str = "$serde_json::private::RawValue";

/// Text within text within text, which was parsed again and again once.
fn bomb(levels: usize) -> String {
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    (0..levels).fold("1".to_owned(), |text, _| {
        let escaped = text.replace('\\', "\\u005c").replace('"', "\\u0022");
        format!("{open}{{\"{RAW}\":\"{escaped}\"}}{close}")
    })
}

#[test]
fn replies_errors_and_signals_may_have_any_names() {
    let document = |value: &str| {
        format!(
            "{{\"session_id\":\"s1\",\"body\":\"\",\"fields\":{{\"a\":{value}}},\"revision\":0,\"dirty\":false,\"path\":null,\
             \"workspace\":null,\"newer\":{value}}}"
        )
    };
    let error = |value: &str| {
        format!(
            "{{\"error\":{{\"code\":\"conflict\",\"reason\":\"lock_held\",\"message\":\"\",\"retryable\":true,\
             \"details\":{{\"a\":{value}}},\"actions\":[],\"request_id\":\"r\"}}}}"
        )
    };
    let signal = |value: &str| {
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"a:1\",\"source\":\"\",\"type\":\"\",\"subject\":\"s1\",\"time\":\"\",\
             \"datacontenttype\":\"\",\"sequence\":\"1\",\"data\":{{\"a\":{value}}}}}"
        )
    };
    let value = format!("{{\"{RAW}\":\"[1]\"}}");
    let read: Document = serde_json::from_str(&document(&value)).unwrap();
    assert_eq!(read.fields["a"].as_object().unwrap()[RAW], "[1]");
    let read: ErrorReply = serde_json::from_str(&error(&value)).unwrap();
    assert_eq!(read.error.details["a"].as_object().unwrap()[RAW], "[1]");
    let read: Signal = serde_json::from_str(&signal(&value)).unwrap();
    assert_eq!(read.data["a"].as_object().unwrap()[RAW], "[1]");
    let bomb = bomb(100);
    drop(serde_json::from_str::<Document>(&document(&bomb)));
    drop(serde_json::from_str::<ErrorReply>(&error(&bomb)));
    drop(serde_json::from_str::<Signal>(&signal(&bomb)));
}
