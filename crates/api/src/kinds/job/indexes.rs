//! Lists of indexes, as `1,3-5,7`.

/// How many indexes there are in a list of which none may reach `completions`; or what is wrong with it.
pub(super) fn count(list: &str, completions: i32) -> Result<i32, String> {
    Ok(ranges(list, completions)?
        .iter()
        .map(|(first, last)| last - first + 1)
        .sum())
}

/// An index that is in both lists.
pub(super) fn overlap(a: &str, b: &str, completions: i32) -> Option<i32> {
    // What is no list has been told of.
    let (a, b) = (ranges(a, completions).ok()?, ranges(b, completions).ok()?);
    let common = |first: &(i32, i32), second: &(i32, i32)| {
        let low = first.0.max(second.0);
        (low <= first.1.min(second.1)).then_some(low)
    };
    a.iter()
        .find_map(|first| b.iter().find_map(|second| common(first, second)))
}

fn ranges(list: &str, completions: i32) -> Result<Vec<(i32, i32)>, String> {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = range(part, completions)?;
        if let Some((_, previous)) = ranges.last()
            && *previous >= first
        {
            return Err(format!(
                "non-increasing order, previous: {previous}, current: {first}"
            ));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

fn range(text: &str, completions: i32) -> Result<(i32, i32), String> {
    let number = |text: &str| {
        let number: i32 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    let mut parts = text.split('-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(only), None, None) => number(only).map(|number| (number, number)),
        (Some(first), Some(last), None) => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!(
                    "non-increasing order, previous: {first}, current: {last}"
                ));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted_or_refused() {
        for (list, expected) in [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("1,3-5,7", Ok(5)),
            ("3,1", Err("non-increasing order, previous: 3, current: 1")),
            ("5-3", Err("non-increasing order, previous: 5, current: 3")),
            ("8", Err("too large index: \"8\"")),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            ("1,", Err("cannot convert string to integer for index: \"\"")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            assert_eq!(count(list, 8), expected.map_err(str::to_owned), "{list}");
        }
        assert_eq!(overlap("0-3,6", "4-5,6", 8), Some(6));
        assert_eq!(overlap("0-3", "4-5", 8), None);
    }
}
