//! The environment: which variables mean something, and what to say of those that do not.

use std::sync::Arc;

use super::file::keys;
use super::{ConfigFile, GuardOptions, ServeOptions};
use crate::auth::Keys;
use crate::nearest::nearest;
use crate::policy::Policies;

/// Read where it exists in the working directory and no other file is named.
pub const DEFAULT_FILE: &str = "config/steerling.toml";
/// One key, in clear, with all scopes.
const API_KEY: &str = "STEERLING_API_KEY";
/// Several keys as NAME:SCOPES:SHA256.
const API_KEYS: &str = "STEERLING_API_KEYS";
const PREFIX: &str = "STEERLING_";
/// What has no flag, because flags can be read by every user of the machine.
const SECRETS: [&str; 2] = [API_KEY, API_KEYS];

/// What the environment says that no flag can.
#[derive(Default)]
pub struct Secrets {
    api_key: Option<String>,
    api_keys: Option<String>,
}

impl Secrets {
    /// Those of this process. An empty variable is none.
    pub fn from_env() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self { api_key: read(API_KEY), api_keys: read(API_KEYS) }
    }
}

impl ServeOptions {
    /// Adds what only a file or the environment can hold, and checks what a single value cannot show.
    ///
    /// # Errors
    /// A line that names the key.
    pub fn complete(&mut self, file: &ConfigFile, secrets: &Secrets) -> Result<(), String> {
        if self.admin_host.is_some() && self.admin_port.is_none() {
            return Err("admin_host needs admin_port".to_owned());
        }
        let hosts = [Some(&self.host), self.admin_host.as_ref()].into_iter().flatten();
        self.service.guard.listening_hosts = hosts.map(|host| host.to_string().parse()).collect::<Result<_, _>>()?;
        self.service.guard.complete(file, secrets)
    }
}

impl GuardOptions {
    /// As [`ServeOptions::complete`].
    ///
    /// # Errors
    /// The same.
    pub fn complete(&mut self, file: &ConfigFile, secrets: &Secrets) -> Result<(), String> {
        self.tls()?;
        if self.audit_prompts && self.audit_log.is_none() {
            return Err("audit_prompts needs audit_log".to_owned());
        }
        let keys = Keys::new(&file.api_keys, secrets.api_key.as_deref(), secrets.api_keys.as_deref());
        self.keys = Arc::new(keys.map_err(|error| error.to_string())?);
        self.policies = Arc::new(Policies::new(file.policies.clone(), self.policy.clone())?);
        Ok(())
    }
}

/// A warning for each variable that looks like a setting and is none. They are not refused: platforms set variables of
/// their own (Kubernetes those of every service, by its name).
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = keys().iter().map(|key| format!("{PREFIX}{}", key.name.to_uppercase())).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).chain(SECRETS).chain(["STEERLING_CONFIG"]).collect();
    let mut unknown: Vec<String> =
        names.into_iter().filter(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str())).collect();
    unknown.sort();
    let warning = |name: String| match nearest(bare(&name), known.iter().copied().map(bare)) {
        Some(near) => format!("the environment variable {name} means nothing here; is {PREFIX}{near} meant?"),
        None => format!("the environment variable {name} means nothing here"),
    };
    unknown.into_iter().map(warning).collect()
}

/// What all have in common says nothing about likeness.
fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_is_told_with_the_nearest_name() {
        let names = ["STEERLING_MAX_BACTH", "STEERLING_PORT", "STEERLING_API_KEY", "HOME", "STEERLING_ZZZZZZZZZZZZ"];
        let warnings = unknown_variables(names.map(str::to_owned));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].ends_with("STEERLING_MAX_BACTH means nothing here; is STEERLING_MAX_BATCH meant?"));
        assert!(warnings[1].ends_with("STEERLING_ZZZZZZZZZZZZ means nothing here"));
    }
}
