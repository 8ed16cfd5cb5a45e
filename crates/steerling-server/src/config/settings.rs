//! The configuration as it came out, for the log and for people.

use std::fmt::{self, Write};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::file::{Key, keys};
use super::{ConfigFile, ServeOptions};

/// A key, its value and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As in the file.
    pub key: String,
    /// As TOML; none if it is not set.
    pub value: Option<String>,
    /// `default`, `file`, `environment` or `flag`.
    pub source: &'static str,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.key, self.value.as_deref().unwrap_or("nothing"), self.source)
    }
}

/// All plain settings of a command line that was parsed with the defaults of `file`.
pub fn settings(matches: &ArgMatches, file: &ConfigFile) -> Vec<Setting> {
    let setting = |key: Key| {
        let id = key.arg.get_id().as_str();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ if file.sets(&key.name) => "file",
            _ => "default",
        };
        let raw = matches.get_raw(id).map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>());
        let list = key.arg.get_value_delimiter().is_some();
        let value = raw.filter(|values| !values.is_empty()).map(|values| toml_value(&values, list));
        Setting { key: key.name, value, source }
    };
    keys().into_iter().map(setting).collect()
}

/// Numbers, booleans and lists as TOML has them; everything else is a string.
pub(super) fn toml_value<S: AsRef<str>>(values: &[S], list: bool) -> String {
    let one = |value: &str| match value.parse::<toml::Value>() {
        Ok(plain @ (toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_))) => plain.to_string(),
        _ => toml::Value::String(value.to_owned()).to_string(),
    };
    match values {
        [value] if !list => one(value.as_ref()),
        values => format!("[{}]", values.iter().map(|value| one(value.as_ref())).collect::<Vec<_>>().join(", ")),
    }
}

/// The resolved configuration as TOML, with the source of each value. Keys are shown by name and scope alone.
pub fn show(settings: &[Setting], options: &ServeOptions, file: &ConfigFile) -> String {
    let mut text = match &file.path {
        Some(path) => format!("# file: {}\n", path.display()),
        None => "# no file\n".to_owned(),
    };
    for Setting { key, value, source } in settings {
        // Writing to a string does not fail.
        _ = match value {
            Some(value) => writeln!(text, "{key} = {value}  # {source}"),
            None => writeln!(text, "# {key} is not set"),
        };
    }
    let guard = &options.service.guard;
    for key in guard.keys.iter() {
        _ = write!(text, "\n[api_keys.{:?}]  # {}\n{key}", key.name(), key.source());
    }
    for name in guard.policies.names() {
        _ = write!(text, "\n[policies.{name:?}]  # file\n");
    }
    text
}
