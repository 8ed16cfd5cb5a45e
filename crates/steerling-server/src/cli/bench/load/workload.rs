//! What is asked, in which mixture: a TOML file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Requests of several kinds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workload {
    #[serde(rename = "request")]
    pub(super) kinds: Vec<Kind>,
}

/// A kind of request, and how its client behaves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kind {
    /// Names it in the report.
    pub(super) name: String,
    /// How often it is drawn, relative to the others.
    #[serde(default = "one")]
    weight: f64,
    #[serde(default = "generate")]
    pub(super) path: String,
    /// The JSON body. `{n}` in its strings becomes the number of the request, and generations without a `seed` get that
    /// number as theirs.
    #[serde(default)]
    body: Map<String, Value>,
    /// Sent as it is instead of `body`.
    raw: Option<String>,
    /// So many bytes of white space before the body.
    #[serde(default)]
    padding: usize,
    /// Statuses that are as they should be.
    #[serde(default = "ok")]
    pub(super) expect: Vec<u16>,
    /// The client leaves after so many events of a stream.
    pub(super) leave_after: Option<usize>,
    /// The client rests so long after every piece that it reads.
    #[serde(default)]
    pub(super) pause_ms: u64,
    /// The client holds its connection for as long as the server lets it, instead of asking.
    pub(super) holds: Option<Hold>,
}

/// How a client holds connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hold {
    /// A flood of connections, each with the beginning of a request.
    Headers,
    /// A body, byte by byte.
    Body,
    /// Answers that it asks for and does not read.
    Answers,
}

fn one() -> f64 {
    1.0
}

fn generate() -> String {
    "/generate".to_owned()
}

fn ok() -> Vec<u16> {
    vec![200]
}

impl Workload {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read or says something that makes no sense.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let workload: Self = toml::from_str(text)?;
        ensure!(!workload.kinds.is_empty(), "`request`: at least one is needed");
        for (i, kind) in workload.kinds.iter().enumerate() {
            let weight = kind.weight;
            ensure!(weight.is_finite() && weight > 0.0, "`request[{i}].weight`: {weight} is not above 0");
            ensure!(kind.path.starts_with('/'), "`request[{i}].path`: `{}` does not begin with `/`", kind.path);
        }
        Ok(workload)
    }

    /// Draws a kind.
    pub(super) fn draw(&self, rng: &mut impl RngExt) -> usize {
        let mut left = rng.random::<f64>() * self.kinds.iter().map(|kind| kind.weight).sum::<f64>();
        let at = self.kinds.iter().position(|kind| {
            left -= kind.weight;
            left < 0.0
        });
        at.unwrap_or(self.kinds.len() - 1)
    }
}

impl Kind {
    /// The body of request number `n`.
    pub(super) fn bytes(&self, n: u64) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone().into_bytes();
        }
        let mut body = Value::Object(self.body.clone());
        number(&mut body, &n.to_string());
        let seeded = ["/generate", "/steer", "/attribute"].contains(&self.path.as_str());
        if let Some(body) = body.as_object_mut().filter(|body| seeded && !body.contains_key("seed")) {
            body.insert("seed".to_owned(), n.into());
        }
        let mut bytes = vec![b' '; self.padding];
        bytes.extend(body.to_string().bytes());
        bytes
    }
}

/// Writes the number of a request into the strings of its body.
fn number(value: &mut Value, n: &str) {
    match value {
        Value::String(text) => *text = text.replace("{n}", n),
        Value::Array(values) => values.iter_mut().for_each(|value| number(value, n)),
        Value::Object(values) => values.values_mut().for_each(|value| number(value, n)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_of_the_program_make_sense() {
        for text in [super::super::MIXED, super::super::SOAK] {
            assert!(Workload::parse(text).unwrap().kinds.len() > 3);
        }
    }

    #[test]
    fn requests_differ_by_their_number() {
        let text = r#"
            [[request]]
            name = "a"
            body = { prompt = "story {n}", stop = ["{n}"], max_new_tokens = 3 }
        "#;
        let kind = Workload::parse(text).unwrap().kinds.remove(0);
        let body: Value = serde_json::from_slice(&kind.bytes(7)).unwrap();
        assert_eq!(body, serde_json::json!({"prompt": "story 7", "stop": ["7"], "max_new_tokens": 3, "seed": 7}));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, field) in [
            ("", "request"),
            ("[[request]]\nname = \"a\"\nweight = 0.0", "request[0].weight"),
            ("[[request]]\nname = \"a\"\npath = \"x\"", "request[0].path"),
            ("[[request]]\nname = \"a\"\nspeed = 1", "speed"),
        ] {
            let error = format!("{:#}", Workload::parse(text).unwrap_err());
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn kinds_are_drawn_by_weight() {
        let text = "[[request]]\nname = \"a\"\nweight = 3\n[[request]]\nname = \"b\"";
        let workload = Workload::parse(text).unwrap();
        let mut rng = rand::rng();
        let second = (0..10_000).filter(|_| workload.draw(&mut rng) == 1).count();
        assert!((2200..2800).contains(&second), "{second}");
    }
}
