//! The table of `docs/security.md`: what each role may do.

/// The document.
pub(super) const DOCUMENT: &str = include_str!("../../../docs/security.md");

/// What may be done with the subjects of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct May {
    /// A message of this role reaches the other side.
    pub(super) send: bool,
    /// This role receives the messages.
    pub(super) hear: bool,
}

impl May {
    fn parse(cell: &str) -> Self {
        match cell {
            "send" => Self { send: true, hear: false },
            "hear" => Self { send: false, hear: true },
            "both" => Self { send: true, hear: true },
            "–" => Self::default(),
            other => panic!("{other:?} is not a cell of the table"),
        }
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    /// Patterns of subjects, for which the same is true.
    pub(super) patterns: Vec<String>,
    /// What each role may do, in the order of the columns.
    pub(super) cells: Vec<May>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    /// The names of the columns.
    pub(super) roles: Vec<String>,
    pub(super) rows: Vec<Row>,
}

impl Table {
    /// Reads it from the document.
    pub(super) fn read() -> Self {
        let (_, after) = DOCUMENT.split_once("<!-- The table of the test begins. -->").unwrap();
        let (text, _) = after.split_once("<!-- The table of the test ends. -->").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with('|')).map(cells_of);
        let roles: Vec<String> = lines.next().unwrap().split_off(2);
        assert!(lines.next().unwrap().iter().all(|cell| cell.starts_with("---")), "a line below the names");
        let rows = lines.filter(|cells| !cells[1].is_empty()).map(|cells| {
            let row = Row {
                patterns: patterns_of(&cells[1]),
                cells: cells[2..].iter().map(|cell| May::parse(cell)).collect(),
            };
            assert_eq!(row.cells.len(), roles.len(), "{}", cells[0]);
            row
        });
        Self { rows: rows.collect(), roles: roles.clone() }
    }
}

fn cells_of(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// The patterns in backticks of a cell, with their braces resolved.
fn patterns_of(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).flat_map(resolved).collect()
}

/// `a.{b,c}` is `a.b` and `a.c`.
fn resolved(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (choices, after) = rest.split_once('}').unwrap();
    choices.split(',').flat_map(|choice| resolved(&format!("{before}{choice}{after}"))).collect()
}

#[test]
fn braces_are_resolved() {
    assert_eq!(patterns_of("`a`, `{b,c}.{d,e}.>`"), ["a", "b.d.>", "b.e.>", "c.d.>", "c.e.>"]);
}
