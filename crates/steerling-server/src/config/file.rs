//! The configuration file. Its plain keys become the defaults that the command line starts from, so that there is one
//! parser and one check for a value, wherever it comes from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, Args, Command};
use toml::{Table, Value};

use super::{DEFAULT_FILE, ServeOptions};
use crate::auth::KeyEntry;
use crate::nearest::nearest;
use crate::policy::PolicyEntry;

/// The tables that only a file can hold.
const TABLES: [&str; 2] = ["api_keys", "policies"];

/// A key of the file.
pub(super) struct Key {
    /// As in the file: the flag's name with underscores.
    pub(super) name: String,
    pub(super) arg: Arg,
}

/// All plain keys, in the order of the flags.
pub(super) fn keys() -> Vec<Key> {
    let command = ServeOptions::augment_args(Command::new("serve"));
    let settings = command.get_arguments().filter(|arg| arg.get_env().is_some());
    settings.filter_map(key).filter(|key| key.name != "config").collect()
}

/// The key of a flag that has an environment variable.
fn key(arg: &Arg) -> Option<Key> {
    Some(Key { name: arg.get_long()?.replace('-', "_"), arg: arg.clone() })
}

/// What a file says.
#[derive(Debug, Default)]
pub struct ConfigFile {
    /// Where it lies; none if there is no file.
    pub path: Option<PathBuf>,
    /// Plain keys, each with one value or the entries of a list.
    values: BTreeMap<String, Vec<String>>,
    /// `[api_keys.NAME]`
    pub(crate) api_keys: BTreeMap<String, KeyEntry>,
    /// `[policies.NAME]`
    pub(crate) policies: BTreeMap<String, PolicyEntry>,
}

impl ConfigFile {
    /// Reads the file that is named, else the usual one if it exists, else nothing.
    ///
    /// # Errors
    /// A line that names the file, the key, and the nearest known one.
    pub fn find(named: Option<&Path>) -> Result<Self, String> {
        let usual = Path::new(DEFAULT_FILE);
        let Some(path) = named.or_else(|| usual.exists().then_some(usual)) else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path: Some(path.to_owned()), ..file })
    }

    /// As [`Self::find`], from text.
    ///
    /// # Errors
    /// A line that names the key, and the nearest known one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| one_line(text, &error))?;
        let mut file = Self { api_keys: take(&mut table, TABLES[0])?, ..Self::default() };
        file.policies = take(&mut table, TABLES[1])?;
        let known = keys();
        let known: Vec<&str> = known.iter().map(|key| key.name.as_str()).chain(TABLES).collect();
        for (name, value) in table {
            if !known.contains(&name.as_str()) {
                let near = nearest(&name, known.iter().copied());
                let near = near.map(|near| format!("; is `{near}` meant?")).unwrap_or_default();
                return Err(format!("unknown key `{name}`{near}"));
            }
            file.values.insert(name.clone(), words(&name, value)?);
        }
        Ok(file)
    }

    /// The command with the file's values for defaults.
    #[must_use]
    pub fn defaults(&self, mut command: Command) -> Command {
        let ids: Vec<_> =
            command.get_arguments().filter_map(key).map(|key| (key.name, key.arg.get_id().clone())).collect();
        for (name, id) in ids {
            if let Some(values) = self.values.get(&name) {
                command = command.mut_arg(id, |arg| arg.default_values(values.clone()));
            }
        }
        command
    }

    /// Whether the file sets a plain key.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}

/// Takes a table of named entries out.
fn take<T: serde::de::DeserializeOwned>(table: &mut Table, name: &str) -> Result<BTreeMap<String, T>, String> {
    let Some(value) = table.remove(name) else { return Ok(BTreeMap::new()) };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        format!("{name}.{path}: {}", error.into_inner().message())
    })
}

/// A value as a flag would be given it.
fn words(name: &str, value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(list) => {
            Ok(list.into_iter().map(|value| words(name, value)).collect::<Result<Vec<_>, _>>()?.concat())
        }
        Value::String(text) => Ok(vec![text]),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(vec![value.to_string()]),
        Value::Table(_) | Value::Datetime(_) => {
            Err(format!("`{name}`: {} where a string, a number or true or false is expected", value.type_str()))
        }
    }
}

fn one_line(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let refused = |text: &str| ConfigFile::parse(text).unwrap_err();
        assert_eq!(refused("max_bacth = 3"), "unknown key `max_bacth`; is `max_batch` meant?");
        assert_eq!(refused("max-queue = 3"), "unknown key `max-queue`; is `max_queue` meant?");
        assert_eq!(refused("zzz = 3"), "unknown key `zzz`");
        assert_eq!(refused("[port]\nx = 1"), "`port`: table where a string, a number or true or false is expected");
        assert!(refused("port = 1\nhost = ").starts_with("line 2: "));
        let scope = refused("[api_keys.a]\nsha256 = 'x'\nscope = ['admin']");
        assert!(scope.starts_with("api_keys.a.scope: unknown field `scope`, expected"), "{scope}");
        let policy = refused("[policies.p.steering]\nsupress = []");
        assert!(policy.starts_with("policies.p.steering.supress: unknown field"), "{policy}");
    }

    #[test]
    fn the_shipped_file_documents_every_key_with_its_default_and_help() {
        let shipped = include_str!("../../../../config/steerling.toml");
        assert!(shipped == super::super::template(), "write it anew: `steerling config --template > {DEFAULT_FILE}`");
        assert!(ConfigFile::parse(shipped).unwrap().values.is_empty(), "as shipped, it changes nothing");
        // With the comment signs before keys and examples taken away it is valid, and every key is there.
        let live: String = shipped
            .lines()
            .filter_map(|line| line.strip_prefix("#"))
            .filter(|line| !line.starts_with(' '))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = ConfigFile::parse(&live).unwrap_or_else(|error| panic!("{error}\n{live}"));
        for key in keys() {
            assert!(file.sets(&key.name), "{}", key.name);
            assert!(shipped.contains(&format!("\n#{} = ", key.name)), "{}", key.name);
        }
        assert!(!file.api_keys.is_empty() && !file.policies.is_empty());
    }
}
