//! Policies at work: between a request that is sound and the engine.

use serde_json::json;
use steerling::embed::Pooling;

use super::{Policies, Policy, Rule};
use crate::api::embed::global;
use crate::api::generate::request::Prepared;
use crate::api::states::reading;
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
    // The first generation is what the request asks for; further ones are variations of it.
    check_steering(&policies, first)?;
    let rules: Vec<Rule> = policies.iter().flat_map(|(_, policy)| policy.rules.clone()).collect();
    if !rules.is_empty() {
        check_prompts(ticket, rules, wanted).await?;
    }
    let names: Vec<String> = policies.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (_, prepared) in wanted.iter_mut() {
        for recipe in policies.iter().filter_map(|(_, policy)| policy.recipe.as_ref()) {
            prepared.recipe = Some(match prepared.recipe.take() {
                Some(own) => own.and(recipe),
                None => recipe.clone(),
            });
        }
        prepared.head.policies = names.clone();
    }
    Ok(())
}

/// A request may not steer against a policy.
fn check_steering(policies: &[(&str, &Policy)], prepared: &Prepared) -> Result<(), ApiError> {
    let Some(own) = &prepared.recipe else { return Ok(()) };
    let edited = own.edited();
    for (name, policy) in policies {
        let theirs = policy.recipe.as_ref().map(|recipe| recipe.edited()).unwrap_or_default();
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
