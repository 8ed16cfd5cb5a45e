//! JSON as Python writes and reads it.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// UTF-8's byte order mark, which some editors put in front of a text.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Bytes parsed as JSON; `path` is what errors call them.
///
/// A byte order mark is skipped, and of a key that stands twice the last value counts, as in Python. A number that is not
/// finite (`NaN`, `Infinity`, `-Infinity`, `1e999`), which Python writes although JSON has none, becomes a string of its
/// text: no key that takes a number accepts it, and a key that is not read does not matter.
///
/// # Errors
/// [`Error::Checkpoint`].
pub(crate) fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value> {
    let invalid =
        |reason: String| Error::Checkpoint { path: path.to_owned(), message: format!("not valid JSON: {reason}") };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(invalid("it is UTF-16; save the file as UTF-8".to_owned()));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    serde_json::from_slice(bytes)
        .or_else(|error| match std::str::from_utf8(bytes).map(quote_non_finite) {
            Ok(Cow::Owned(text)) => serde_json::from_str(&text),
            _ => Err(error),
        })
        .map_err(|error| invalid(error.to_string()))
}

/// The text with numbers that are not finite as strings; borrowed if there are none.
fn quote_non_finite(text: &str) -> Cow<'_, str> {
    let mut quoted = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['"', '-', 'N', 'I', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        let (before, token) = rest.split_at(start);
        let end = match token.starts_with('"') {
            true => string_len(token),
            false => token.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(token.len()),
        };
        let (token, after) = token.split_at(end);
        quoted.push_str(before);
        match is_non_finite(token) {
            true => quoted.extend(["\"", token, "\""]),
            false => quoted.push_str(token),
        }
        rest = after;
    }
    quoted.push_str(rest);
    if quoted.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(quoted) }
}

fn is_non_finite(token: &str) -> bool {
    let digits = token.strip_prefix('-').unwrap_or(token);
    matches!(token, "NaN" | "Infinity" | "-Infinity")
        || (digits.starts_with(|c: char| c.is_ascii_digit()) && token.parse().is_ok_and(f64::is_infinite))
}

/// Bytes of the JSON string that `text` begins with, quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Value> {
        parse_json(Path::new("config.json"), text.as_bytes())
    }

    #[test]
    fn numbers_that_are_not_finite_become_strings_outside_of_strings_only() {
        let text =
            r#"{"a": NaN, "b": [-Infinity, Infinity, 1e999, -2.5, 1e3], "NaN, \"": "Infinity: \\", "c": {"d":NaN}}"#;
        let expected = json!({"a": "NaN", "b": ["-Infinity", "Infinity", "1e999", -2.5, 1e3], "NaN, \"": "Infinity: \\",
            "c": {"d": "NaN"}});
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_another_encoding_is_named() {
        assert_eq!(parse("\u{feff}{\"a\": 1}").unwrap(), json!({"a": 1}));
        for mark in [[0xff, 0xfe], [0xfe, 0xff]] {
            let error = parse_json(Path::new("config.json"), &mark).unwrap_err().to_string();
            assert_eq!(error, "config.json: not valid JSON: it is UTF-16; save the file as UTF-8");
        }
    }

    #[test]
    fn what_neither_language_reads_is_an_error() {
        for text in ["", "{", "{\"a\": Nan}", "{\"a\": +Infinity}", "[1,]", "{\"a\": NaN", "\"", "{'a': 1}"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("config.json: not valid JSON: "), "{text}: {error}");
        }
    }
}
