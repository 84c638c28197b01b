//! The examples of `docs/security.md`, so that the tests run what people copy.

use super::table::DOCUMENT;

/// The code block behind `<!-- example: NAME -->`.
pub(super) fn example(name: &str) -> &'static str {
    let (_, after) = DOCUMENT.split_once(&format!("<!-- example: {name} -->\n")).unwrap_or_else(|| panic!("no {name}"));
    let (_, block) = after.split_once("```").unwrap();
    let (_, block) = block.split_once('\n').unwrap();
    block.split_once("```").unwrap().0
}

/// `text` with the lines of a difference exchanged: lines with `-` must be there, and are replaced by those with `+`.
/// Lines that begin with neither say where, and must be there too. A line `@@` begins another place.
pub(super) fn patched(text: &str, difference: &str) -> String {
    difference.split("@@\n").fold(text.to_owned(), |text, hunk| patched_once(&text, hunk))
}

fn patched_once(text: &str, hunk: &str) -> String {
    let mut before = String::new();
    let mut after = String::new();
    for line in hunk.lines() {
        let (sign, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        let kept = format!("{rest}\n");
        if sign != "+" {
            before += &kept;
        }
        if sign != "-" {
            after += &kept;
        }
    }
    assert_eq!(text.matches(&before).count(), 1, "this is not once in the file:\n{before}");
    text.replace(&before, &after)
}

#[test]
fn differences_are_applied() {
    assert_eq!(patched("a\nb\nc\n", " a\n-b\n+d\n+e\n@@\n-c\n"), "a\nd\ne\n");
}
