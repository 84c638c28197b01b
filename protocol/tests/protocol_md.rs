//! `PROTOCOL.md` says what the code does: its examples are requests that parse, its tables are the code's, and its JSON
//! is what the types read.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use holdfast_protocol::act::{Act, Done};
use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::reply::Session;
use holdfast_protocol::request::{
    Acquire, Close, DocGet, Drain, Edit, Empty, List, Load, Move, Open, Reclaim, Request, RotateSecret, Save,
    ShowToken, Takeover, Undo, Unlock, parse,
};
use holdfast_protocol::signal::Signal;
use holdfast_protocol::subject::{Root, Target, Verb};
use holdfast_protocol::{Limits, Reason, SessionRecord};
use serde_json::Value;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../PROTOCOL.md")).unwrap()
}

/// The code blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let blocks = page.split(&opening).skip(1);
    blocks.map(|rest| rest.split_once("\n```").unwrap().0.to_owned()).collect()
}

fn check<R: Request>(body: &str) -> Result<(), String> {
    parse::<R>(body.as_bytes(), &Limits::default()).map(|_| ()).map_err(|error| error.to_string())
}

fn check_as(verb: Verb, body: &str) -> Result<(), String> {
    match verb {
        Verb::SessionOpen => check::<Open>(body),
        Verb::SessionGet | Verb::SessionTouch | Verb::AdminPreview | Verb::WorkerList => check::<Empty>(body),
        Verb::SessionList => check::<List>(body),
        Verb::SessionClose => check::<Close>(body),
        Verb::LockAcquire => check::<Acquire>(body),
        Verb::LockValidate | Verb::LockRenew | Verb::LockRelease => check::<ShowToken>(body),
        Verb::DocGet => check::<DocGet>(body),
        Verb::DocEdit => check::<Edit>(body),
        Verb::DocLoad => check::<Load>(body),
        Verb::DocSave => check::<Save>(body),
        Verb::DocUndo | Verb::DocRedo => check::<Undo>(body),
        Verb::AdminTakeover => check::<Takeover>(body),
        Verb::AdminUnlock => check::<Unlock>(body),
        Verb::AdminMove => check::<Move>(body),
        Verb::AdminReclaim => check::<Reclaim>(body),
        Verb::AdminRotateSecret => check::<RotateSecret>(body),
        Verb::WorkerDrain | Verb::WorkerUndrain => check::<Drain>(body),
    }
}

/// Subject and body of `nats req … <subject> '<body>'`, with the shell's variables filled in.
fn request(line: &str) -> Option<(String, String)> {
    let line = line.replace("'\"$TOKEN\"'", "hft_0");
    let (_, rest) = line.split_once("nats req ")?;
    let (before, rest) = rest.split_once('\'')?;
    let subject = before.split_whitespace().last()?.to_owned();
    Some((subject, rest.split_once('\'')?.0.to_owned()))
}

#[test]
fn every_example_is_a_request_that_parses() {
    let mut asked = BTreeSet::new();
    for line in blocks(&page(), "sh").iter().flat_map(|block| block.lines()).filter(|line| line.contains("nats req ")) {
        let (subject, body) = request(line).unwrap_or_else(|| panic!("not understood: {line}"));
        let verb = Root::default().parse_request(&subject).unwrap_or_else(|error| panic!("{line}: {error}")).verb();
        check_as(verb, &body).unwrap_or_else(|error| panic!("{line}: {error}"));
        asked.insert(verb.as_str());
    }
    assert_eq!(asked, Verb::ALL.iter().map(|verb| verb.as_str()).collect(), "every request has an example");
}

#[test]
fn every_request_has_its_row() {
    let page = page();
    for verb in Verb::ALL {
        let subject = match verb.target() {
            Target::Session => format!("`hf.<ns>.{verb}.<id>`"),
            Target::Namespace => format!("`hf.<ns>.{verb}`"),
            Target::Worker => format!("`hf.sys.{verb}.<worker>`"),
            Target::Fleet => format!("`hf.sys.{verb}`"),
        };
        assert!(page.lines().any(|line| line.starts_with('|') && line.contains(&subject)), "{subject}");
    }
}

/// The words in backticks of one cell.
fn words(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_errors_is_the_codes() {
    let page = page();
    let (_, table) = page.split_once("| code | number | reason |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let (mut code, mut number, mut listed) = (String::new(), String::new(), Vec::new());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        if let [word] = words(cells[0])[..] {
            (code, number) = (word.to_owned(), cells[1].to_owned());
        }
        listed.push((code.clone(), number.clone(), words(cells[2])[0], cells[4], words(cells[5])));
    }
    let actual = Reason::ALL.iter().map(|reason| {
        let retryable = if reason.retryable() { "yes" } else { "no" };
        let number = reason.code().number().to_string();
        (reason.code().as_str().to_owned(), number, reason.as_str(), retryable, reason.possible_actions().to_vec())
    });
    assert_eq!(listed, actual.collect::<Vec<_>>());
}

#[test]
fn the_json_is_what_the_types_read() {
    let blocks: Vec<String> = blocks(&page(), "json");
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        // An ellipsis stands for the rest of an id.
        let block = block.replace("01935b3c-…", "01935b3c-6a00-7000-8000-000000000001");
        let value: Value = serde_json::from_str(&block).unwrap();
        let again = if value.get("error").is_some() {
            serde_json::to_value(serde_json::from_value::<ErrorReply>(value.clone()).unwrap()).unwrap()
        } else if value["source"] == "/holdfast/sys" {
            serde_json::to_value(serde_json::from_value::<Act>(value.clone()).unwrap()).unwrap()
        } else if value.get("specversion").is_some() {
            serde_json::to_value(serde_json::from_value::<Signal>(value.clone()).unwrap()).unwrap()
        } else if value.get("v").is_some() {
            serde_json::to_value(serde_json::from_value::<SessionRecord>(value.clone()).unwrap()).unwrap()
        } else {
            serde_json::to_value(serde_json::from_value::<Session>(value.clone()).unwrap()).unwrap()
        };
        assert_eq!(again, value);
    }
}

#[test]
fn every_act_has_its_row_and_its_subject() {
    let page = page();
    for event in Done::EVENTS {
        let (kind, subject) = (format!("`holdfast.{event}.v1`"), format!("`{}`", Root::default().act(event)));
        assert!(page.lines().any(|line| line.starts_with('|') && line.contains(&kind)), "{kind}");
        assert!(page.contains(&subject), "{subject}");
    }
}

#[test]
fn links_within_the_page_lead_somewhere() {
    let page = page();
    let anchor = |title: &str| title.to_lowercase().replace(' ', "-").replace(',', "");
    let titles: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")))
        .map(anchor)
        .collect();
    for link in page.split("](#").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
        assert!(titles.contains(link), "#{link}");
    }
}
