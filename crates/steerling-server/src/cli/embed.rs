//! `steerling embed`: texts as vectors, or as the concepts in them.

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use console::style;
use serde_json::{Value, json};
use steerling::Runtime;
use steerling::embed::{ConceptWeights, EmbedJob, EmbeddingType, Pooling, TextStates};
use steerling_server::config::ModelOptions;

use super::bars::{bar, column, one_line};
use super::output::{emit, note};

/// Embed texts.
///
/// On a terminal each text is described: the length of its vector and the cosines with the others, or its concepts.
/// Anywhere else one line a vector is printed, numbers separated by tabs.
#[derive(Debug, clap::Args)]
pub(crate) struct EmbedArgs {
    /// Texts; without any, the lines of standard input
    texts: Vec<String>,
    /// Which vector a text is embedded as
    #[arg(long = "type", value_enum, default_value_t = Kind::Composed)]
    kind: Kind,
    /// How the vectors of a text's tokens become one
    #[arg(long, value_enum, default_value_t = Pool::Mean)]
    pooling: Pool,
    /// Scale each vector to length 1
    #[arg(long)]
    normalize: bool,
    /// Concepts shown of each text
    #[arg(long, value_name = "N", default_value_t = 10)]
    top_k: usize,
    /// Print the answer of POST /embed as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// Which vector a text is embedded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The hidden state after the final norm
    Hidden,
    /// What the output head reads
    Composed,
    /// The known concepts' part
    Known,
    /// The unknown concepts' part
    Unknown,
    /// What all concepts leave
    Epsilon,
    /// The active concepts with their weights
    Concepts,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pool {
    /// Their mean
    Mean,
    /// That of the last token
    Last,
    /// That of the first token
    First,
    /// They do not: one for each token
    None,
}

impl Kind {
    /// The vector, unless it is the sparse one.
    fn vector(self) -> Option<EmbeddingType> {
        match self {
            Self::Hidden => Some(EmbeddingType::Hidden),
            Self::Composed => Some(EmbeddingType::Composed),
            Self::Known => Some(EmbeddingType::Known),
            Self::Unknown => Some(EmbeddingType::Unknown),
            Self::Epsilon => Some(EmbeddingType::Epsilon),
            Self::Concepts => None,
        }
    }
}

impl Pool {
    fn pooling(self) -> Pooling {
        match self {
            Self::Mean => Pooling::Mean,
            Self::Last => Pooling::Last,
            Self::First => Pooling::First,
            Self::None => Pooling::None,
        }
    }
}

/// The rows of each text.
enum Rows {
    Dense(Vec<Vec<Vec<f32>>>),
    /// Global ids and weights.
    Concepts(Vec<Vec<Vec<(u32, f32)>>>),
}

/// Embeds and prints.
///
/// # Errors
/// If the model cannot be loaded, a text is empty or too long, or the device fails.
pub(crate) fn run(args: &EmbedArgs) -> Result<()> {
    if args.normalize && args.kind == Kind::Concepts {
        bail!("--normalize is not for concepts, whose weights are no dense vector");
    }
    let texts = args.texts()?;
    let mut runtime = super::load(&args.model.source(), &args.model.runtime())?;
    if let Some(notice) = args.model.notice() {
        note(format_args!("warning: {notice}"));
    }
    let ids = encode(&runtime, &texts)?;
    let tokens: Vec<usize> = ids.iter().map(Vec::len).collect();
    let mut job = EmbedJob::new(ids, args.pooling.pooling())?;
    let states = loop {
        if let Some(states) = job.advance(&mut runtime)? {
            break states;
        }
    };
    let rows = args.rows(&states, &runtime)?;
    if args.json {
        return emit(&format!("{:#}\n", args.answer(&rows, &runtime, &tokens))).map(drop);
    }
    let is_terminal = std::io::stdout().is_terminal();
    emit(&match &rows {
        Rows::Dense(rows) if is_terminal => describe(&texts, &tokens, rows),
        Rows::Dense(rows) => lines(rows),
        Rows::Concepts(rows) => args.concepts(&texts, rows, &runtime),
    })?;
    Ok(())
}

fn encode(runtime: &Runtime, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let context = runtime.info().config.context;
    let encode = |(i, text): (usize, &String)| {
        let ids = runtime.tokenizer().encode(text)?;
        ensure!(!ids.is_empty(), "text {} is empty", i + 1);
        ensure!(ids.len() <= context, "text {} has {} tokens, the context {context} positions", i + 1, ids.len());
        Ok(ids)
    };
    texts.iter().enumerate().map(encode).collect()
}

impl EmbedArgs {
    fn texts(&self) -> Result<Vec<String>> {
        if !self.texts.is_empty() {
            return Ok(self.texts.clone());
        }
        let mut input = std::io::stdin().lock();
        if input.is_terminal() {
            note("reading texts from standard input, one a line; Ctrl-D ends them");
        }
        let mut text = String::new();
        input.read_to_string(&mut text).context("cannot read texts from standard input")?;
        ensure!(!text.is_empty(), "there is no text");
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn rows(&self, states: &TextStates, runtime: &Runtime) -> Result<Rows> {
        let Some(kind) = self.kind.vector() else {
            let known = runtime.catalog().known_len() as u32;
            let global = |weights: ConceptWeights| {
                let unknown = weights.unknown.into_iter().map(|(index, weight)| (known + index, weight));
                let mut all: Vec<_> = weights.known.into_iter().chain(unknown).collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                all
            };
            let texts = states.concepts(runtime.model())?.into_iter();
            return Ok(Rows::Concepts(texts.map(|rows| rows.into_iter().map(global).collect()).collect()));
        };
        let mut texts = states.embeddings(runtime.model(), kind)?;
        if self.normalize {
            for row in texts.iter_mut().flatten() {
                let length = norm(row);
                row.iter_mut().filter(|_| length > 0.0).for_each(|x| *x /= length);
            }
        }
        Ok(Rows::Dense(texts))
    }

    fn answer(&self, rows: &Rows, runtime: &Runtime, tokens: &[usize]) -> Value {
        let name =
            |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| value().map(|value| value.get_name().to_owned());
        let pooled = |mut rows: Vec<Value>| match self.pooling {
            Pool::None => Value::Array(rows),
            _ => rows.pop().unwrap_or_default(),
        };
        let (dimensions, embeddings): (usize, Vec<Value>) = match rows {
            Rows::Dense(texts) => (
                runtime.info().config.n_embd,
                texts.iter().map(|rows| pooled(rows.iter().map(|row| json!(row)).collect())).collect(),
            ),
            Rows::Concepts(texts) => (
                runtime.catalog().len(),
                texts.iter().map(|rows| pooled(rows.iter().map(|row| json!(row)).collect())).collect(),
            ),
        };
        json!({
            "model": runtime.info().name,
            "embedding_type": name(&|| self.kind.to_possible_value()),
            "pooling": name(&|| self.pooling.to_possible_value()),
            "dimensions": dimensions,
            "embeddings": embeddings,
            "tokens": tokens,
        })
    }

    /// Names, weights and bars.
    fn concepts(&self, texts: &[String], rows: &[Vec<Vec<(u32, f32)>>], runtime: &Runtime) -> String {
        let mut out = String::new();
        for (text, rows) in texts.iter().zip(rows) {
            out.push_str(&format!("{}\n", style(one_line(text, 100)).bold()));
            for (n, row) in rows.iter().enumerate() {
                if self.pooling == Pool::None {
                    out.push_str(&format!("  token {n}\n"));
                }
                for (id, weight) in row.iter().take(self.top_k) {
                    let name = runtime.catalog().get(*id).map_or("", |concept| concept.name);
                    out.push_str(&format!("  {id:>6}  {}  {} {weight:.4}\n", column(name, 32), bar(*weight, 1.0)));
                }
            }
        }
        out
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// One line a vector.
fn lines(texts: &[Vec<Vec<f32>>]) -> String {
    let line = |row: &Vec<f32>| row.iter().map(f32::to_string).collect::<Vec<_>>().join("\t") + "\n";
    texts.iter().flatten().map(line).collect()
}

/// The length of each vector, its first numbers, and how alike the texts are.
fn describe(texts: &[String], tokens: &[usize], rows: &[Vec<Vec<f32>>]) -> String {
    let mut out = String::new();
    for ((text, tokens), rows) in texts.iter().zip(tokens).zip(rows) {
        out.push_str(&format!("{}  {}\n", style(one_line(text, 80)).bold(), style(format!("{tokens} tokens")).dim()));
        for row in rows {
            let first: Vec<String> = row.iter().take(6).map(|x| format!("{x:>9.4}")).collect();
            let rest = if row.len() > 6 { format!(" … {} in all", row.len()) } else { String::new() };
            out.push_str(&format!("  length {:.4}:{}{rest}\n", norm(row), first.join(" ")));
        }
    }
    if let ([first, others @ ..], true) = (rows, rows.len() > 1 && rows.iter().all(|rows| rows.len() == 1)) {
        out.push_str(&format!("cosine with {}\n", style(one_line(&texts[0], 60)).bold()));
        for (text, other) in texts[1..].iter().zip(others) {
            let (a, b) = (&first[0], &other[0]);
            let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let cosine = dot / (norm(a) * norm(b)).max(f32::MIN_POSITIVE);
            out.push_str(&format!("  {} {cosine:>7.4}  {}\n", bar(cosine, 1.0), one_line(text, 60)));
        }
    }
    out
}
