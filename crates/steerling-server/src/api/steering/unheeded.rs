//! What a steering says without effect.

use super::{EpsilonBody, Recipe, ScheduleBody, SteeringRequest};

impl SteeringRequest {
    /// A line for each field whose value changes nothing. `recipe` is this steering with its concepts found.
    pub(super) fn unheeded(&self, recipe: &Recipe) -> Vec<String> {
        let mut found = Vec::new();
        self.zeros(&mut found);
        self.groups(recipe, &mut found);
        let drops = self.set_weights.iter().any(|entry| entry.epsilon == Some(EpsilonBody::Drop));
        for (i, entry) in self.set_weights.iter().enumerate() {
            if drops && entry.epsilon == Some(EpsilonBody::Keep) {
                found.push(format!("`steering.set_weights[{i}].epsilon` has no effect: another entry drops the rest"));
            }
        }
        let steerable = |id: u32| recipe.catalog.get(id).is_some_and(|concept| concept.flags.steerable);
        if self.force && recipe.named().into_iter().all(steerable) {
            found.push("`steering.force` has no effect: every concept may be steered without it".to_owned());
        }
        found
    }

    /// Strengths of nothing, and schedules that end before they begin.
    fn zeros(&self, found: &mut Vec<String>) {
        let mut zero = |is: bool, field: String, why: &str| found.extend(is.then(|| format!("`{field}` is 0: {why}")));
        const NOTHING: &str = "nothing is added";
        const OVER: &str = "the schedule ends before the first step, nothing is added";
        for (i, entry) in self.amplify.iter().enumerate() {
            zero(entry.target == Some(0.0), format!("steering.amplify[{i}].target"), NOTHING);
            zero(entry.cutoff_tokens == Some(0), format!("steering.amplify[{i}].cutoff_tokens"), OVER);
        }
        for (i, entry) in self.suppress.iter().enumerate() {
            zero(entry.target == Some(0.0), format!("steering.suppress[{i}].target"), NOTHING);
            zero(entry.strength == Some(0.0), format!("steering.suppress[{i}].strength"), "no logits are suppressed");
        }
        for (i, entry) in self.inject.iter().enumerate() {
            zero(entry.target == 0.0, format!("steering.inject[{i}].target"), NOTHING);
            let over = matches!(
                entry.schedule,
                Some(ScheduleBody::HardCutoff { tokens: 0 } | ScheduleBody::LinearDecay { tokens: 0 })
            );
            zero(over, format!("steering.inject[{i}].schedule.tokens"), OVER);
        }
        for (i, entry) in self.suppress_logits.iter().enumerate() {
            let field = format!("steering.suppress_logits[{i}].strength");
            zero(entry.strength == Some(0.0), field, "no logits are suppressed");
        }
    }

    /// Groups that hold no other concept. The injections of a recipe begin with those of `amplify` and `suppress`.
    fn groups(&self, recipe: &Recipe, found: &mut Vec<String>) {
        let amplify = self.amplify.iter().enumerate().map(|(i, entry)| ("amplify", i, entry.group));
        let suppress = self.suppress.iter().enumerate().map(|(i, entry)| ("suppress", i, entry.group));
        for ((list, i, group), injection) in amplify.chain(suppress).zip(&recipe.injections) {
            let alone = injection.concepts.iter().all(|concept| recipe.catalog.group(*concept).len() <= 1);
            if group.is_some() && alone {
                found.push(format!("`steering.{list}[{i}].group` has no effect: the concept is alone in its group"));
            }
        }
    }
}
