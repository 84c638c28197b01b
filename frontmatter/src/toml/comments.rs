//! Comments of members that go: they stay, as the lines before whatever is next.
//!
//! Deliberately absent: comments within dotted keys and inline tables, which go with their member, and those in lists.

use std::collections::{BTreeMap, BTreeSet};

use toml_edit::{Decor, DocumentMut, Item, Table};

/// How many members behind one that goes are tried for its comments: sections and dotted keys cannot have them.
const NEXT_MAX: usize = 8;

/// Lines with nothing behind them in their table.
#[derive(Debug)]
pub(super) struct Loose {
    lines: String,
    /// Which header they come after.
    header: isize,
}

/// Takes the comment lines before a member that is to go to the first of `next` that can have them.
pub(super) fn lift<'a>(
    table: &mut Table,
    name: &str,
    next: impl Iterator<Item = &'a str>,
    header: Option<isize>,
) -> Option<Loose> {
    let (lines, header) = match table.get_key_value(name)? {
        (_, Item::Table(table)) => (before(table.decor()), table.position()?),
        (_, Item::ArrayOfTables(tables)) => {
            let all = tables.iter().map(|table| before(table.decor()));
            (all.collect(), tables.iter().filter_map(Table::position).max()?)
        }
        (key, Item::Value(_)) => {
            let lines = before(key.leaf_decor());
            for name in next.take(if lines.is_empty() { 0 } else { NEXT_MAX }) {
                if table.get(name).is_some_and(Item::is_value)
                    && let Some(mut key) = table.key_mut(name)
                {
                    prepend(key.leaf_decor_mut(), &lines);
                    return None;
                }
            }
            (lines, header?)
        }
        _ => return None,
    };
    (!lines.is_empty()).then_some(Loose { lines, header })
}

/// Takes the comment lines before a table that is to go.
pub(super) fn lift_table(table: &Table) -> Option<Loose> {
    let lines = before(table.decor());
    (!lines.is_empty()).then_some(Loose { lines, header: table.position()? })
}

/// Puts loose lines before the next header, or at the end. They were taken from the last to the first.
pub(super) fn settle(document: &mut DocumentMut, mut loose: Vec<Loose>) {
    loose.reverse();
    loose.sort_by_key(|loose| loose.header);
    let mut headers = BTreeSet::new();
    each_table(document.as_table_mut(), &mut |header, _| {
        headers.insert(header);
    });
    let mut homes: BTreeMap<Option<isize>, String> = BTreeMap::new();
    for Loose { lines, header } in loose {
        let next = headers.range(header + 1..).next().copied();
        homes.entry(next).or_default().push_str(&lines);
    }
    if let Some(lines) = homes.remove(&None) {
        // What is there already stood behind everything.
        let all = [lines.as_str(), document.trailing().as_str().unwrap_or_default()].concat();
        document.set_trailing(all);
    }
    if !homes.is_empty() {
        each_table(document.as_table_mut(), &mut |header, table| {
            if let Some(lines) = homes.remove(&Some(header)) {
                prepend(table.decor_mut(), &lines);
            }
        });
    }
}

/// Every table with a header, and where it stands among the others.
fn each_table(table: &mut Table, see: &mut impl FnMut(isize, &mut Table)) {
    for (_, item) in table.iter_mut() {
        let tables: &mut dyn Iterator<Item = &mut Table> = match item {
            Item::Table(table) => &mut std::iter::once(table),
            Item::ArrayOfTables(tables) => &mut tables.iter_mut(),
            _ => continue,
        };
        for table in tables {
            if let Some(header) = table.position().filter(|_| !table.is_dotted() && !table.is_implicit()) {
                see(header, table);
            }
            each_table(table, see);
        }
    }
}

/// The lines before something, if a comment is among them.
fn before(decor: &Decor) -> String {
    let lines = decor.prefix().and_then(|lines| lines.as_str()).unwrap_or_default();
    let end = lines.rfind('\n').map_or(0, |at| at + 1);
    if lines.contains('#') { lines[..end].to_owned() } else { String::new() }
}

fn prepend(decor: &mut Decor, lines: &str) {
    let own = decor.prefix().and_then(|own| own.as_str()).unwrap_or_default();
    let all = [lines, own].concat();
    decor.set_prefix(all);
}
