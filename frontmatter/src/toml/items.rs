//! Items put into lists and taken out, each with the comment behind its comma.
//!
//! What `toml_edit` says is before an item begins right behind the comma of the one before, and so with a comment that
//! belongs to that one.

use toml_edit::{Array, Decor, RawString, Value};

/// Takes an item out.
pub(super) fn take_out(array: &mut Array, place: usize) {
    let removed = array.remove(place);
    let is_open_end = place == array.len() && !array.trailing_comma();
    let next = if is_open_end { text(removed.decor().suffix()) } else { text(behind(array, place)) };
    let removed = text(removed.decor().prefix());
    match (removed.find('\n'), next.find('\n')) {
        (Some(line), Some(rest)) => set_behind(array, place, [&removed[..line], &next[rest..]].concat()),
        _ if is_open_end => set_behind(array, place, next),
        _ if place == 0 && !array.is_empty() => set_behind(array, place, removed),
        _ => {}
    }
}

/// Puts an item in, with space or a new line before it as the others have.
pub(super) fn put_in(array: &mut Array, place: usize, mut item: Value) {
    let between = between(array);
    let next = text(behind(array, place));
    if place == 0 {
        item.decor_mut().set_prefix(next);
        if !array.is_empty() {
            set_behind(array, 0, between);
        }
    } else if let Some((line, rest)) = next.split_once('\n') {
        item.decor_mut().set_prefix([line, &between].concat());
        set_behind(array, place, ["\n", rest].concat());
    } else {
        item.decor_mut().set_prefix(between);
    }
    // What was behind the last item, and before the bracket, is so again.
    if place == array.len()
        && !array.trailing_comma()
        && let Some(last) = place.checked_sub(1).and_then(|last| array.get_mut(last))
    {
        let suffix = text(last.decor().suffix());
        last.decor_mut().set_suffix("");
        item.decor_mut().set_suffix(suffix);
    }
    array.insert_formatted(place, item);
}

/// What stands behind the item before `place`.
fn behind(array: &Array, place: usize) -> Option<&RawString> {
    match array.get(place) {
        Some(next) => next.decor().prefix(),
        None if array.trailing_comma() => Some(array.trailing()),
        None => array.get(place.checked_sub(1)?)?.decor().suffix(),
    }
}

fn set_behind(array: &mut Array, place: usize, text: String) {
    let has_comma = array.trailing_comma();
    let set_suffix = |decor: &mut Decor| decor.set_suffix(text.as_str());
    match array.get_mut(place) {
        Some(next) => next.decor_mut().set_prefix(text),
        None if has_comma => array.set_trailing(text),
        None => {
            place.checked_sub(1).and_then(|last| array.get_mut(last)).map(Value::decor_mut).map(set_suffix);
        }
    }
}

/// What stands between two items: a space, or a new line with the indentation of the items.
fn between(array: &Array) -> String {
    let prefix = |at| array.get(at).map(|item: &Value| text(item.decor().prefix()));
    let last_line = |text: &str| text.rfind('\n').map_or(text, |at| &text[at..]).to_owned();
    match (prefix(1), prefix(0)) {
        (Some(text), _) => last_line(&text),
        (None, Some(text)) if text.contains('\n') => last_line(&text),
        _ => " ".to_owned(),
    }
}

fn text(raw: Option<&RawString>) -> String {
    raw.and_then(RawString::as_str).unwrap_or_default().to_owned()
}
