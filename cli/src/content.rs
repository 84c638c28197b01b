//! The options for content: a text, a file to read it from, fields as JSON, splices.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use holdfast_client::protocol::document::Splice;
use holdfast_client::protocol::json::{self, Flaw};
use serde_json::{Map, Value};

use crate::exit::Failure;

/// A text, given directly or in a file.
#[derive(Args, Debug, Default)]
pub(crate) struct Body {
    /// The text itself
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file", allow_hyphen_values = true)]
    body: Option<String>,
    /// Read the text from FILE; `-` is standard input
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
}

impl Body {
    /// The text, if one was given.
    pub(crate) fn read(self) -> Result<Option<String>, Failure> {
        match self.body_file {
            None => Ok(self.body),
            Some(file) => Ok(Some(read(&file)?)),
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => io::stdin().lock().read_to_string(&mut text).map(|_| ()),
        _ => fs::read_to_string(file).map(|content| text = content),
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

/// A JSON object.
pub(crate) type Fields = Map<String, Value>;

/// Reads fields, a JSON object.
pub(crate) fn fields(text: &str) -> Result<Fields, String> {
    if !text.trim_start().starts_with('{') {
        return Err("fields must be a JSON object, like {\"title\":\"Plan\"}".to_owned());
    }
    // Checked here, because a coordinator would not see what is lost in parsing.
    json::parse_fields(text).map_err(|flaw| match flaw {
        Flaw::Json(why) => format!("not JSON: {why}"),
        Flaw::Integer(_) => flaw.to_string(),
    })
}

/// Parses `AT:DELETE:INSERT`; the inserted text may have colons.
pub(crate) fn splice(text: &str) -> Result<Splice, String> {
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    let [at, delete, insert] = parts.as_slice() else {
        return Err("a splice is AT:DELETE:INSERT, like 0:5:Hello".to_owned());
    };
    let number = |name: &str, text: &str| text.parse().map_err(|_| format!("{name} must be a number, not {text:?}"));
    Ok(Splice { at: number("AT", at)?, delete: number("DELETE", delete)?, insert: (*insert).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splice_has_three_parts() {
        let parsed = splice("3:2:a:b").unwrap();
        assert_eq!((parsed.at, parsed.delete, parsed.insert.as_str()), (3, 2, "a:b"));
        assert_eq!(splice("0:0:").unwrap().insert, "");
        assert!(splice("0:0").is_err());
        assert!(splice("-1:0:x").is_err());
    }

    #[test]
    fn fields_are_an_object() {
        assert_eq!(fields(r#"{"a":null}"#).unwrap()["a"], Value::Null);
        assert_eq!(fields(r#"{"$serde_json::private::RawValue":"[1]"}"#).unwrap().len(), 1);
        for text in ["[]", r#"{"a":1,"a":2}"#, r#"{"a":18446744073709551616}"#, r#"{"a":1e400}"#, "{} {}"] {
            assert!(fields(text).is_err(), "{text}");
        }
        assert!(fields("{").is_err());
    }
}
