//! From the prompts of a request to its choices: `n` generations for each, in one batch.

use std::sync::Arc;

use steerling::score::{ScoreItem, TokenScore, TokenScoreJob};

use super::common::{ChoiceExtra, Common, Head, RequestExtra, Usage};
use super::models;
use crate::api::AppState;
use crate::api::generate::request::{GenerateRequest, Prepared};
use crate::api::lanes::{self, Opened};
use crate::api::seed::Seed;
use crate::api::states::check_length;
use crate::api::steering::Recipe;
use crate::engine::{Model, Ticket, WorkKind};
use crate::error::ApiError;

/// What is asked for, in terms of generations.
pub(super) struct Order {
    /// Names the request.
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) common: Common,
    /// One for each prompt.
    pub(super) requests: Vec<GenerateRequest>,
    /// The prompts came in a list.
    pub(super) is_list: bool,
    /// The request field that limits a generation.
    pub(super) max_tokens: &'static str,
    /// Something is to be generated.
    pub(super) generates: bool,
    /// The answers begin with their prompts.
    pub(super) echo: bool,
    /// How many of the likeliest tokens are told beside each token; none for no log-probabilities.
    pub(super) logprobs: Option<usize>,
}

/// Choices that can only be refused for lack of room.
pub(super) struct Plan {
    pub(super) head: Head,
    pub(super) model: Arc<Model>,
    pub(super) extra: RequestExtra,
    /// Ids of the prompts.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Choices for each prompt.
    pub(super) n: usize,
    /// By prompt, then by choice; none if nothing is to be generated.
    generations: Vec<(Option<String>, Prepared)>,
    echo: bool,
    pub(super) logprobs: Option<usize>,
    max_tokens: &'static str,
}

/// A choice that has been made.
pub(super) struct Choice {
    /// Its place among all choices.
    pub(super) index: usize,
    /// Which prompt it goes on from.
    pub(super) prompt: usize,
    /// What was generated.
    pub(super) text: String,
    /// `length` or `stop`.
    pub(super) finish_reason: &'static str,
    /// None if nothing was generated.
    pub(super) extra: Option<ChoiceExtra>,
    /// The tokens of the answer, those of the prompt included if it is echoed; the first of all has no number.
    pub(super) tokens: Vec<(u32, Option<TokenScore>)>,
}

impl Order {
    /// Checks everything that can be checked before the model is asked.
    pub(super) fn plan(self, model: &Arc<Model>, places: usize) -> Result<Plan, ApiError> {
        let n = self.common.n()?;
        let choices = self.requests.len() * n;
        if choices > places {
            let message = format!(
                "{} prompts with {n} choices each are {choices} generations; this server holds {places} at a time",
                self.requests.len()
            );
            return Err(ApiError::invalid(if n > 1 { "n" } else { "prompt" }, message));
        }
        let seed = self.common.seed.unwrap_or_else(Seed::draw);
        let unheeded = |name: &str| format!("`{name}` has no effect: nothing is generated");
        let warnings = match self.generates {
            true => Vec::new(),
            false => self.common.of_generations().into_iter().map(unheeded).collect(),
        };
        let mut plan = Plan {
            head: Head { id: self.id, object: self.object, created: models::now(), model: model.info.name.clone() },
            model: model.clone(),
            extra: RequestExtra { seed, warnings },
            prompts: Vec::with_capacity(self.requests.len()),
            n,
            generations: Vec::with_capacity(choices),
            echo: self.echo,
            logprobs: self.logprobs,
            max_tokens: self.max_tokens,
        };
        // All prompts are steered alike: concepts are looked for once.
        let recipe = match self.requests.first().filter(|_| self.generates) {
            Some(first) => first.recipe(model)?,
            None => None,
        };
        for (i, request) in self.requests.into_iter().enumerate() {
            let added = if self.generates { plan.generate(request, recipe.clone()) } else { plan.only_read(&request) };
            let field = if self.is_list { format!("prompt[{i}]") } else { "prompt".to_owned() };
            added.map_err(|error| error.in_terms(&[("prompt", &field), ("max_new_tokens", plan.max_tokens)]))?;
        }
        Ok(plan)
    }
}

impl Plan {
    fn generate(&mut self, request: GenerateRequest, recipe: Option<Recipe>) -> Result<(), ApiError> {
        let prepared = request.prepare_steered(&self.model, recipe)?;
        for warning in &prepared.head.warnings {
            let warning = warning.replace("max_new_tokens", self.max_tokens);
            if !self.extra.warnings.contains(&warning) {
                self.extra.warnings.push(warning);
            }
        }
        self.prompts.push(prepared.prompt().to_vec());
        let seeds = (0..self.n as u64).map(|i| self.extra.seed.plus(i));
        self.generations.extend(seeds.map(|seed| (None, prepared.with_seed(seed))));
        Ok(())
    }

    fn only_read(&mut self, request: &GenerateRequest) -> Result<(), ApiError> {
        let ids = request.prompt_ids(&self.model.tokenizer)?;
        let vocab = self.model.limits.canvas.vocab_size;
        if let Some(i) = ids.iter().position(|id| *id as usize >= vocab) {
            let message = format!("{} is not below the vocabulary size {vocab}", ids[i]);
            return Err(ApiError::invalid(format!("prompt[{i}]"), message));
        }
        check_length(&self.model, ids.len(), "prompt")?;
        self.prompts.push(ids);
        Ok(())
    }

    /// Tokens of all prompts.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }

    /// Starts all generations.
    pub(super) async fn open(&mut self, state: &AppState, ticket: &Ticket) -> Result<Opened, ApiError> {
        let opened = lanes::open(state, ticket, std::mem::take(&mut self.generations)).await;
        opened.map_err(|error| error.in_terms(&[("max_new_tokens", self.max_tokens)]))
    }

    /// Makes all choices.
    pub(super) async fn choices(
        &mut self,
        state: &AppState,
        ticket: &Ticket,
    ) -> Result<(Vec<Choice>, Usage), ApiError> {
        let ended = match self.generations.is_empty() {
            true => Vec::new(),
            false => lanes::fold(self.open(state, ticket).await?.lanes).await?,
        };
        let mut made = ended.iter().map(ChoiceExtra::of);
        let choice = |index: usize| {
            let (text, extra) = made.next().unzip();
            Choice {
                index,
                prompt: index / self.n,
                text: text.unwrap_or_default(),
                finish_reason: extra.as_ref().map_or("length", ChoiceExtra::finish_reason),
                extra,
                tokens: Vec::new(),
            }
        };
        let mut choices: Vec<Choice> = (0..self.prompts.len() * self.n).map(choice).collect();
        if let Some(top) = self.logprobs {
            self.score(&mut choices, top, ticket).await?;
        }
        let generated = choices.iter().filter_map(|choice| choice.extra.as_ref()).map(|extra| extra.token_ids.len());
        let usage = Usage::new(self.prompt_tokens(), generated.sum());
        Ok((choices, usage))
    }

    /// Reads what has been written: how likely is each token after those before it?
    async fn score(&self, choices: &mut [Choice], top: usize, ticket: &Ticket) -> Result<(), ApiError> {
        let item = |choice: &Choice| {
            let prompt = &self.prompts[choice.prompt];
            let mut context = prompt.clone();
            context.extend(choice.extra.iter().flat_map(|extra| &extra.token_ids));
            // The first token of an echo comes after nothing.
            let from = if self.echo { 1.min(context.len()) } else { prompt.len() };
            let continuation = context.split_off(from);
            ScoreItem { context, continuation }
        };
        let items: Vec<ScoreItem> = choices.iter().map(item).collect();
        for (choice, ScoreItem { context, continuation }) in choices.iter_mut().zip(&items) {
            let first = context.iter().filter(|_| self.echo);
            choice.tokens = first.chain(continuation).map(|id| (*id, None)).collect();
        }
        let size =
            items.iter().map(|item| item.continuation.len() * (item.context.len() + item.continuation.len())).sum();
        let mut job = TokenScoreJob::new(items, top, &self.model.info.config)?;
        let scores = ticket.run(WorkKind::Score, size, move |runtime| job.advance(runtime))?.await?;
        for (choice, scores) in choices.iter_mut().zip(scores) {
            let scored = choice.tokens.len() - scores.len();
            choice.tokens[scored..].iter_mut().zip(scores).for_each(|(token, score)| token.1 = Some(score));
        }
        Ok(())
    }
}
