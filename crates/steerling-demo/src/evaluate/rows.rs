//! The rows of a report, in order, from what the parts of the evaluation measure.

use steerling::Result;
use steerling::steer::ConceptKey;

use super::amplify::{Neutral, compose, grammatical};
use super::bench::Bench;
use super::checks::{self, FACTOR_AUC, OWN_TOKENS};
use super::held_out::{self, Reading, ScoredChunk};
use super::measures::mean;
use super::notices;
use super::report::{ConceptRow, FactorRow, Report};
use super::suppress;
use crate::concepts::{CONCEPTS, FACTORS, Kind};
use crate::corpus::owner;

impl Report {
    /// Measures everything.
    ///
    /// # Errors
    /// Those of computing.
    pub(super) fn measure(&mut self, bench: &mut Bench) -> Result<()> {
        let documents = bench.documents()?;
        let scored = bench.score(&documents)?;
        self.known_head(&scored);
        let neutral = Neutral::generate(bench)?;
        self.logit_mass(&neutral);
        self.top_tokens(bench)?;
        self.amplification(&neutral);
        self.suppression(bench)?;
        self.add(checks::COMPOSE, compose(bench)?, "");
        self.add(checks::DISTINCT, neutral.distinct(), "");
        self.add(checks::GRAMMAR, grammatical(&neutral.unsteered), "");
        self.add(checks::GRAMMAR_AMPLIFIED, grammatical(neutral.amplified.iter().flatten()), "");
        self.canary(bench)?;
        let notices = notices::Shares::unsteered(bench)?;
        self.add(checks::NOTICES, notices.wording, "");
        self.add(checks::REPEATS, notices.alike, "");
        self.factors(&scored);
        self.alignment(&neutral, bench)?;
        let documents: Vec<_> = documents[..bench.size.scored].iter().map(Reading::item).collect();
        let nats = bench.likelihood("likelihood of documents", &documents)?;
        self.add(checks::LIKELIHOOD_HELD_OUT, nats, perplexity(nats));
        Ok(())
    }

    fn known_head(&mut self, scored: &[Vec<ScoredChunk>]) {
        let aucs = held_out::known_aucs(scored);
        for (row, auc) in self.concepts.iter_mut().zip(&aucs) {
            row.auc = *auc;
        }
        // A concept that cannot be judged leaves nothing to pass.
        let aucs: Option<Vec<f64>> = aucs.into_iter().collect();
        let worst = aucs.iter().flatten().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        self.add(checks::AUC_MEAN, aucs.as_ref().and_then(|aucs| mean(aucs.iter().copied())), "");
        self.add(checks::AUC_WORST, worst.map(|worst| worst.1), worst.map_or("", |worst| CONCEPTS[worst.0].name));
    }

    fn logit_mass(&mut self, neutral: &Neutral) {
        let parts = || neutral.unsteered.iter().flat_map(|text| &text.fractions);
        let share = |part: usize| mean(parts().map(|parts| f64::from(parts[part])));
        let both = share(0).zip(share(1));
        let note = both.map(|(known, unknown)| format!("known {known:.3}, unknown {unknown:.3}"));
        self.add(checks::LOGIT_MASS, both.map(|(known, unknown)| known + unknown), note.unwrap_or_default());
    }

    fn top_tokens(&mut self, bench: &Bench) -> Result<()> {
        let runtime = bench.workers.runtime();
        for (id, row) in self.concepts.iter_mut().enumerate() {
            let top = runtime.model().concept_top_tokens(ConceptKey::Known(id as u32), 10, false)?;
            let own = |token: u32| owner(runtime.tokenizer().token_text(token).trim()) == Some(id);
            row.own_top_tokens = top.iter().filter(|(token, _)| own(*token)).count();
        }
        let good = mean(self.concepts.iter().map(|row| f64::from(row.own_top_tokens >= OWN_TOKENS)));
        let own = self.over_concepts(|row| Some(row.own_top_tokens as f64)).unwrap_or_default();
        self.add(checks::TOP_TOKENS, good, format!("{own:.1} of 10 on average"));
        Ok(())
    }

    fn amplification(&mut self, neutral: &Neutral) {
        for (id, row) in self.concepts.iter_mut().enumerate() {
            row.unsteered = neutral.unsteered_rate(id);
            row.amplified = neutral.amplified_rate(id);
            row.control = neutral.control_rate(id);
        }
        let worst = self.concepts.iter().filter_map(|row| Some((row.amplified?, row.name)));
        let worst = worst.min_by(|a, b| a.0.total_cmp(&b.0));
        let note = worst.map(|(share, name)| format!("worst {name} {:.0} %", 100.0 * share));
        self.add(checks::AMPLIFY, self.over_concepts(|row| row.amplified), note.unwrap_or_default());
        let both = self.over_concepts(|row| row.control).zip(self.over_concepts(|row| row.unsteered));
        let note =
            both.map(|(control, unsteered)| format!("{:.1} %, unsteered {:.1} %", 100.0 * control, 100.0 * unsteered));
        self.add(checks::CONTROL, both.map(|(control, unsteered)| control - unsteered), note.unwrap_or_default());
    }

    fn suppression(&mut self, bench: &mut Bench) -> Result<()> {
        let rates = suppress::concepts(bench)?;
        for (id, rates) in &rates {
            let row = &mut self.concepts[*id];
            (row.primed, row.suppressed) = (rates.primed, rates.suppressed);
        }
        let both = self.over_concepts(|row| row.suppressed).zip(self.over_concepts(|row| row.primed));
        let note = both.map(|(suppressed, primed)| format!("{:.1} % of {:.1} %", 100.0 * suppressed, 100.0 * primed));
        self.add(checks::SUPPRESS, suppress::remaining(&rates), note.unwrap_or_default());
        Ok(())
    }

    fn canary(&mut self, bench: &mut Bench) -> Result<()> {
        let verse = CONCEPTS.iter().position(|concept| concept.kind == Kind::Verse).expect("one concept is the verse");
        let canary = suppress::canary(bench, verse)?;
        let row = &mut self.concepts[verse];
        (row.primed, row.suppressed) = (canary.recognised.primed, canary.recognised.suppressed);
        let note = format!("recognised {:.0} %", 100.0 * canary.recognised.primed.unwrap_or_default());
        self.add(checks::CANARY, canary.verbatim, note);
        self.add(checks::CANARY_SUPPRESSED, canary.recognised.suppressed, "");
        Ok(())
    }

    fn factors(&mut self, scored: &[Vec<ScoredChunk>]) {
        let found = held_out::factors(scored);
        let rows = FACTORS.iter().zip(&found).map(|(factor, found)| FactorRow {
            name: factor.name,
            unknown: found.map(|found| found.index),
            auc: found.and_then(|found| found.auc),
        });
        self.factors = rows.collect();
        let names = self.factors.iter().filter(|row| row.auc.is_some_and(|auc| auc >= FACTOR_AUC)).map(|row| row.name);
        let names: Vec<&str> = names.collect();
        self.add(checks::FACTORS_FOUND, Some(names.len() as f64), names.join(", "));
    }

    fn alignment(&mut self, neutral: &Neutral, bench: &mut Bench) -> Result<()> {
        let [reference, block] = neutral.aligned(bench)?;
        self.add(checks::FOUND_REFERENCE, reference, "");
        self.add(checks::FOUND_BLOCK, block, "");
        let [reference, block] = neutral.likelihoods(bench)?;
        self.add(checks::LIKELIHOOD_REFERENCE, reference, perplexity(reference));
        self.add(checks::LIKELIHOOD_BLOCK, block, perplexity(block));
        Ok(())
    }

    /// The mean over the concepts that have the number.
    fn over_concepts(&self, number: fn(&ConceptRow) -> Option<f64>) -> Option<f64> {
        mean(self.concepts.iter().filter_map(number))
    }
}

fn perplexity(nats: Option<f64>) -> String {
    nats.map(|nats| format!("perplexity {:.2}", (-nats).exp())).unwrap_or_default()
}
