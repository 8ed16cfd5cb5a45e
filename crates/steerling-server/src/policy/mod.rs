//! Policies: what the operator has always steered, and which prompts are refused. They govern text that is generated, and
//! no request steers a concept that they steer, not even to replay a trace. What only reads text (`/embed`, `/score`) is
//! not touched.

mod config;
mod enforce;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use steerling::catalog::Catalog;
use steerling::{Config, Error};

use crate::api::steering::Recipe;
use crate::error::ApiError;

use config::Over;
pub(crate) use config::PolicyEntry;
pub(crate) use enforce::{enforce, replayed};

/// Largest weight of a concept.
const MAX_WEIGHT: f32 = 1.0;

/// The policies of the configuration.
#[derive(Debug, Default)]
pub struct Policies {
    entries: BTreeMap<String, PolicyEntry>,
    /// Holds for every generation.
    default: Option<String>,
    /// Set when the model has been loaded for the first time.
    resolved: OnceLock<BTreeMap<String, Policy>>,
}

/// A policy with its concepts found.
#[derive(Debug)]
struct Policy {
    recipe: Option<Recipe>,
    rules: Vec<Rule>,
}

/// A prompt that has `concept` with at least `threshold` is refused.
#[derive(Debug, Clone)]
struct Rule {
    policy: String,
    concept: u32,
    name: String,
    threshold: f32,
    over: Over,
}

impl Policies {
    /// # Errors
    /// If the default policy is none of them, or one does nothing.
    pub(crate) fn new(entries: BTreeMap<String, PolicyEntry>, default: Option<String>) -> Result<Self, String> {
        if let Some(name) = default.as_ref().filter(|name| !entries.contains_key(*name)) {
            return Err(format!("policy: there is no [policies.{name}] in the configuration file"));
        }
        if let Some((name, _)) = entries.iter().find(|(_, entry)| entry.steering.is_none() && entry.refuse.is_empty()) {
            return Err(format!("policies.{name}: it has neither `steering` nor `refuse` and would do nothing"));
        }
        Ok(Self { entries, default, resolved: OnceLock::new() })
    }

    /// The names of all of them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Finds their concepts in a model that has just been loaded.
    ///
    /// # Errors
    /// For a policy that this model cannot keep: better no service than one without it.
    pub(crate) fn resolve(&self, config: &Config, catalog: &Arc<Catalog>) -> steerling::Result<()> {
        let mut resolved = BTreeMap::new();
        for (name, entry) in &self.entries {
            let refuse = |error: ApiError| Error::invalid(format!("policies.{name}"), error.to_string());
            let recipe = entry.steering.as_ref().map(|steering| steering.recipe_for(config, catalog)).transpose();
            let rules = entry.refuse.iter().enumerate().map(|(i, rule)| {
                let field = format!("refuse[{i}]");
                if !(rule.threshold > 0.0 && rule.threshold <= MAX_WEIGHT) {
                    let message = format!("{} is outside 0 (excluded) to {MAX_WEIGHT}", rule.threshold);
                    return Err(ApiError::invalid(format!("{field}.threshold"), message));
                }
                let concept = catalog.resolve(&format!("{field}.concept"), &rule.concept)?;
                let (policy, threshold, over) = (name.clone(), rule.threshold, rule.over);
                Ok(Rule { policy, concept: concept.id, name: concept.name.to_owned(), threshold, over })
            });
            let rules = rules.collect::<Result<Vec<_>, ApiError>>().map_err(refuse)?;
            resolved.insert(name.clone(), Policy { recipe: recipe.map_err(refuse)?, rules });
        }
        // A model that is loaded again is the same one.
        _ = self.resolved.set(resolved);
        Ok(())
    }

    /// The concepts that no generation of a request which names `named` may steer otherwise, by global id.
    pub(crate) fn governed(&self, named: Option<&str>) -> Result<BTreeSet<u32>, ApiError> {
        Ok(self.in_force(named)?.iter().flat_map(|(_, policy)| policy.governed()).collect())
    }

    /// Those that hold for a request that names `named`, the default one first.
    fn in_force(&self, named: Option<&str>) -> Result<Vec<(&str, &Policy)>, ApiError> {
        let mut names: Vec<&str> = self.default.as_deref().into_iter().collect();
        names.extend(named.filter(|name| self.default.as_deref() != Some(*name)));
        names.into_iter().map(|name| self.find("policy", name)).collect()
    }

    /// The policy of this name; errors name `field`.
    fn find(&self, field: &str, name: &str) -> Result<(&str, &Policy), ApiError> {
        let missing = || ApiError::invalid(field, format!("there is no policy `{name}`"));
        if !self.entries.contains_key(name) {
            return Err(missing());
        }
        // Nothing is generated before the model is there, and with it the policies.
        let resolved = self.resolved.get().ok_or_else(ApiError::internal)?;
        resolved.get_key_value(name).map(|(name, policy)| (name.as_str(), policy)).ok_or_else(missing)
    }
}

impl Policy {
    /// The concepts that it steers, groups included.
    fn governed(&self) -> Vec<u32> {
        self.recipe.as_ref().map(Recipe::edited).unwrap_or_default()
    }
}
