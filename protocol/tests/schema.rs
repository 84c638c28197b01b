//! `schema.json` is what the types make. Run with `--features schema`; with HOLDFAST_WRITE_SCHEMA=1 it writes the file.
//!
//! Deliberately absent: whether the schemas are true. `tests/js/schema.mjs` checks them against the golden files and
//! against a running fleet.

#![cfg(feature = "schema")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use holdfast_protocol::schema::{DOCUMENT, document};

#[test]
fn the_file_is_what_the_types_make() {
    let made = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("HOLDFAST_WRITE_SCHEMA").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json"), &made).unwrap();
        return;
    }
    assert!(
        made == DOCUMENT,
        "protocol/schema.json is old: run HOLDFAST_WRITE_SCHEMA=1 cargo test -p holdfast-protocol --features schema \
         --test schema"
    );
}
