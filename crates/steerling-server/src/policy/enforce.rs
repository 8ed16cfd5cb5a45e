//! Policies at work: between a request that is sound and the engine.

use serde_json::json;
use steerling::embed::Pooling;

use super::{Policies, Policy, Rule};
use crate::api::embed::global;
use crate::api::generate::request::Prepared;
use crate::api::states::reading;
use crate::api::steering::Recipe;
use crate::engine::{Ticket, WorkKind};
use crate::error::ApiError;

/// Refuses what the policies of a request refuse, and adds what they steer to every one of its generations.
pub(crate) async fn enforce(
    policies: &Policies,
    ticket: &Ticket,
    wanted: &mut [(Option<String>, Prepared)],
) -> Result<(), ApiError> {
    let Some((_, first)) = wanted.first() else { return Ok(()) };
    let policies = policies.in_force(first.head.policy.as_deref())?;
    if policies.is_empty() {
        return Ok(());
    }
    for (_, prepared) in wanted.iter() {
        check_steering(&policies, prepared.recipe.as_ref())?;
    }
    let rules: Vec<Rule> = policies.iter().flat_map(|(_, policy)| policy.rules.clone()).collect();
    if !rules.is_empty() {
        check_prompts(ticket, rules, wanted).await?;
    }
    let names: Vec<String> = policies.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (_, prepared) in wanted.iter_mut() {
        prepared.recipe = governed(prepared.recipe.take(), &policies);
        prepared.head.policies = names.clone();
    }
    Ok(())
}

/// What a trace is replayed under: its own steering, and that of the policies which the trace says held. They, and the
/// default policy of the server, refuse a steering of their concepts as they refuse it in a generation.
pub(crate) fn replayed(
    policies: &Policies,
    names: &[String],
    recipe: Option<&Recipe>,
) -> Result<Option<Recipe>, ApiError> {
    let mut of_trace: Vec<(&str, &Policy)> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let field = format!("trace.policies[{i}]");
        if names[..i].contains(name) {
            return Err(ApiError::invalid(field, format!("the policy `{name}` is named twice")));
        }
        of_trace.push(policies.find(&field, name)?);
    }
    check_steering(&policies.in_force(None)?, recipe)?;
    check_steering(&of_trace, recipe)?;
    Ok(governed(recipe.cloned(), &of_trace))
}

/// A recipe and what policies add to it. Where two of them set the weight of one concept, the first does: that of the
/// configuration cannot be undone by naming another.
fn governed(own: Option<Recipe>, policies: &[(&str, &Policy)]) -> Option<Recipe> {
    let theirs = policies.iter().rev().filter_map(|(_, policy)| policy.recipe.as_ref());
    theirs.fold(own, |sum, recipe| match sum {
        Some(sum) => Some(sum.and(recipe)),
        None => Some(recipe.clone()),
    })
}

/// A request may not steer a concept that a policy steers, in no direction.
fn check_steering(policies: &[(&str, &Policy)], own: Option<&Recipe>) -> Result<(), ApiError> {
    let edited = own.map(Recipe::edited).unwrap_or_default();
    for (name, policy) in policies {
        let theirs = policy.governed();
        if let Some(concept) = edited.iter().find(|concept| theirs.contains(concept)) {
            let message = format!("the policy `{name}` steers concept {concept}: a request may not");
            let details = json!({"policy": name, "concept": concept});
            return Err(ApiError::refused_by_policy(message, details).or_param("steering"));
        }
    }
    Ok(())
}

/// Reads each prompt once, and refuses it if a concept is too strong in it.
async fn check_prompts(
    ticket: &Ticket,
    rules: Vec<Rule>,
    wanted: &[(Option<String>, Prepared)],
) -> Result<(), ApiError> {
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    for prompt in wanted.iter().map(|(_, prepared)| prepared.prompt()).filter(|prompt| !prompt.is_empty()) {
        if prompts.iter().all(|other| other != prompt) {
            prompts.push(prompt.to_vec());
        }
    }
    let Some(known) = wanted.first().map(|(_, prepared)| prepared.head.model.catalog.known_len()) else {
        return Ok(());
    };
    let tokens = prompts.iter().map(Vec::len).sum();
    let read = reading(prompts, Pooling::None, move |states, runtime| {
        let texts = states.concepts(runtime.model())?.into_iter();
        Ok(texts
            .map(|rows| {
                let n = rows.len();
                let weights: Vec<(u32, f32)> = rows.into_iter().flat_map(|row| global(row, known)).collect();
                let weight = |rule: &Rule| {
                    let of_concept = weights.iter().filter(|(id, _)| *id == rule.concept);
                    rule.over.of(of_concept.map(|(_, weight)| *weight), n)
                };
                let measured = rules.iter().map(|rule| (rule.clone(), weight(rule)));
                measured.filter(|(rule, weight)| *weight >= rule.threshold).collect::<Vec<_>>()
            })
            .collect())
    });
    let broken: Vec<Vec<(Rule, f32)>> = ticket.run(WorkKind::Embed, tokens, read)?.await?;
    let Some((rule, weight)) = broken.into_iter().flatten().next() else { return Ok(()) };
    let Rule { policy, concept, name, threshold, over } = rule;
    let message = format!(
        "the policy `{policy}` refuses this prompt: concept {concept} ({name}) has weight {weight:.3} in it, \
         {threshold} and more are refused"
    );
    let details = json!({"policy": policy, "concept": concept, "weight": weight, "threshold": threshold, "over": over});
    Err(ApiError::refused_by_policy(message, details).or_param("prompt"))
}
