//! Splices of a text, and the one splice between two texts.
//!
//! Law: the inverses of splices, made in the opposite order, restore the text.

use holdfast_protocol::Error;
use holdfast_protocol::document::Splice;
use holdfast_protocol::error::Reason;
use ropey::Rope;

/// Makes splices, each on the result of the one before, and returns their inverses in the same order. `check` is told
/// how many bytes the text has after each.
///
/// # Errors
/// `bad_value` for a splice out of bounds; those of `check`.
pub(super) fn splice_all(
    text: &mut String,
    splices: &[Splice],
    check: impl Fn(usize) -> Result<(), Error>,
) -> Result<Vec<Splice>, Error> {
    if splices.is_empty() {
        return Ok(Vec::new());
    }
    // A request may have thousands. Each would walk a string and move its end; a rope does neither.
    let mut rope = Rope::from_str(text);
    let inverses = splices.iter().map(|splice| {
        let inverse = make(&mut rope, splice).ok_or_else(|| outside(splice))?;
        check(rope.len_bytes()).map(|()| inverse)
    });
    let inverses = inverses.collect::<Result<Vec<Splice>, Error>>()?;
    *text = rope.into();
    Ok(inverses)
}

/// Makes one splice and returns its inverse; `None` where it is out of bounds.
fn make(rope: &mut Rope, splice: &Splice) -> Option<Splice> {
    let start = usize::try_from(splice.at).ok()?;
    let end = start.checked_add(usize::try_from(splice.delete).ok()?)?;
    let deleted = rope.get_slice(start..end)?.to_string();
    rope.remove(start..end);
    rope.insert(start, &splice.insert);
    Some(Splice { at: splice.at, delete: splice.insert.chars().count() as u64, insert: deleted })
}

fn outside(splice: &Splice) -> Error {
    let message = format!("splice at {} deleting {} is outside of the text", splice.at, splice.delete);
    Error::invalid(Reason::BadValue, message).detail("field", "splices")
}

/// The one splice that makes `new` of `old`: it replaces what is between their common beginning and common end.
pub(super) fn difference(old: &str, new: &str) -> Option<Splice> {
    if old == new {
        return None;
    }
    let same = old.chars().zip(new.chars()).take_while(|(left, right)| left == right);
    let (at, start) = same.fold((0, 0), |(chars, bytes), (char, _)| (chars + 1, bytes + char.len_utf8()));
    let (old, new) = (&old[start..], &new[start..]);
    let same = old.chars().rev().zip(new.chars().rev()).take_while(|(left, right)| left == right);
    let end: usize = same.map(|(char, _)| char.len_utf8()).sum();
    let delete = old[..old.len() - end].chars().count() as u64;
    Some(Splice { at, delete, insert: new[..new.len() - end].to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splice(at: u64, delete: u64, insert: &str) -> Splice {
        Splice { at, delete, insert: insert.to_owned() }
    }

    #[test]
    fn the_difference_of_two_texts_makes_one_of_the_other() {
        for (old, new) in
            [("", "a"), ("a", ""), ("abc", "axc"), ("aaa", "aa"), ("héllo", "hèllo"), ("ab", "ba"), ("x", "x")]
        {
            let mut text = old.to_owned();
            splice_all(&mut text, difference(old, new).as_slice(), |_| Ok(())).unwrap();
            assert_eq!(text, new, "from {old:?}");
        }
    }

    #[test]
    fn splices_do_what_a_vector_of_chars_does_and_their_inverses_lead_back() {
        let text = "añb🎉c\r\n".repeat(100);
        let inserts = ["é\n", "\r", ""];
        let splices: Vec<Splice> =
            (0..60).map(|n| splice((n * 97) % 600, n % 3, inserts[n as usize % inserts.len()])).collect();
        let mut model: Vec<char> = text.chars().collect();
        for Splice { at, delete, insert } in &splices {
            model.splice(*at as usize..(at + delete) as usize, insert.chars());
        }
        let mut made = text.clone();
        let mut inverses = splice_all(&mut made, &splices, |_| Ok(())).unwrap();
        assert_eq!(made, String::from_iter(model));
        inverses.reverse();
        splice_all(&mut made, &inverses, |_| Ok(())).unwrap();
        assert_eq!(made, text);
    }

    #[test]
    fn what_a_full_request_may_ask_for_takes_little_time() {
        let mut large = "é".repeat(256 * 1024);
        let start = std::time::Instant::now();
        splice_all(&mut large, &vec![splice(200_000, 0, ""); 27_000], |_| Ok(())).unwrap();
        assert!(start.elapsed().as_secs() < 5, "it took {:?}", start.elapsed());
    }

    #[test]
    fn splices_count_unicode_scalar_values_and_stay_inside() {
        let mut text = "añb🎉c".to_owned();
        splice_all(&mut text, &[splice(3, 1, "x")], |_| Ok(())).unwrap();
        assert_eq!(text, "añbxc");
        for (at, delete) in [(6, 0), (5, 1), (0, 6), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(splice_all(&mut text, &[splice(at, delete, "")], |_| Ok(())).is_err());
            assert_eq!(text, "añbxc", "what is refused changes nothing");
        }
        splice_all(&mut text, &[splice(5, 0, "!")], |_| Ok(())).unwrap();
        assert_eq!(text, "añbxc!");
    }
}
