//! `NaN` and infinities, which Python writes into JSON and JSON does not have.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Json, after_string};

/// Numbers that are none, and stand-ins of the same length.
const NOT_FINITE: [(&str, &str); 2] = [("NaN", "0.0"), ("Infinity", "0.000000")];

/// The text with `null` for each number that is not finite, as JavaScript writes them; `None` if there is none.
pub(crate) fn with_nulls(text: &str) -> Option<String> {
    replace(text, |replaced, name, _| {
        if name == "Infinity" && replaced.ends_with('-') {
            replaced.pop();
        }
        replaced.push_str("null");
    })
}

/// The entries of an object, of which some hold numbers that are not finite: each value as [`with_nulls`] makes it, and
/// the original text of those that it changed. `None` if the text is no such object.
pub(crate) fn entries(text: &str) -> Option<Vec<(String, Json, Option<String>)>> {
    let stand_in = replace(text, |replaced, _, stand_in| replaced.push_str(stand_in))?;
    let values: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(&stand_in).ok()?;
    let entry = |(key, value): (Cow<'_, str>, &RawValue)| {
        let start = value.get().as_ptr().addr() - stand_in.as_ptr().addr();
        let original = text.get(start..start + value.get().len())?;
        let changed = with_nulls(original);
        let json = Json::parse(changed.as_deref().unwrap_or(original)).ok()?;
        Some((key.into_owned(), json, changed.map(|_| original.to_owned())))
    };
    values.into_iter().map(entry).collect()
}

/// The text with each number that is not finite replaced by what `write` appends, given its name and stand-in; `None`
/// if there is none.
fn replace(text: &str, write: impl Fn(&mut String, &str, &str)) -> Option<String> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.find(['"', 'N', 'I']) {
        replaced.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(string) = rest.strip_prefix('"') {
            let behind = after_string(string)?;
            replaced.push_str(&rest[..rest.len() - behind.len()]);
            rest = behind;
            continue;
        }
        let (name, stand_in) = NOT_FINITE.into_iter().find(|(name, _)| rest.starts_with(name))?;
        write(&mut replaced, name, stand_in);
        rest = &rest[name.len()..];
        found = true;
    }
    replaced.push_str(rest);
    found.then_some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_become_null_outside_of_strings() {
        let text =
            r#"{"NaN": NaN, "é\"": [-Infinity, Infinity, "NaN \" -Infinity"], "not-null": "non-null", "b": -1.5}"#;
        let nulls = r#"{"NaN": null, "é\"": [null, null, "NaN \" -Infinity"], "not-null": "non-null", "b": -1.5}"#;
        assert_eq!(with_nulls(text).unwrap(), nulls);
        assert_eq!(with_nulls(nulls), None);
        for broken in [r#"{"a": Nothing}"#, r#"{"a": "NaN}"#, "["] {
            assert_eq!(with_nulls(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_entries_of_an_object_keep_the_texts_that_are_no_json() {
        let entries = entries(r#"{"a": 1.50, "é": {"n": [NaN]}, "b": "NaN"}"#).unwrap();
        let entries: Vec<_> =
            entries.iter().map(|(key, json, text)| (&**key, json.as_str(), text.as_deref())).collect();
        let expected =
            [("a", "1.50", None), ("b", "\"NaN\"", None), ("é", r#"{"n": [null]}"#, Some(r#"{"n": [NaN]}"#))];
        assert_eq!(entries, expected);
        assert!(super::entries("[NaN]").is_none());
    }
}
