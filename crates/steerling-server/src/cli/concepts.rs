//! `steerling concepts`: what the concepts of a checkpoint are called, and which tokens they promote.

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use console::style;
use serde_json::json;
use steerling::catalog::{Concept, Filter, Flag, Head};
use steerling::steer::ConceptKey;
use steerling::{Catalog, ConceptRef, Config, Error};
use steerling_server::config::ModelOptions;

use super::bars::{bar, column, one_line};
use super::output::{emit, note, table};

/// Columns of a name.
const NAME: usize = 32;
/// Members of a group that are shown.
const MEMBERS: usize = 20;

/// Look into the concepts of a checkpoint.
#[derive(Debug, Args)]
pub(crate) struct ConceptsArgs {
    #[command(subcommand)]
    command: ConceptsCommand,
}

#[derive(Debug, Subcommand)]
enum ConceptsCommand {
    /// Find concepts by words of their names and descriptions
    Search(SearchArgs),
    /// Tell what is known of a concept
    Show(ShowArgs),
    /// List the tokens that a concept promotes, or works against
    Tokens(TokensArgs),
}

/// Find concepts by words of their names and descriptions.
///
/// Whole words, without regard to case, best first; without words, a listing by id. Needs no weights.
#[derive(Debug, Args)]
struct SearchArgs {
    /// Words to look for
    query: Vec<String>,
    /// Concepts shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Concepts skipped
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: usize,
    /// Only this head; a search's default is known
    #[arg(long, value_enum)]
    head: Option<HeadFlag>,
    /// Search concepts that may not be steered, too
    #[arg(long)]
    unsteerable: bool,
    /// Only concepts with this flag
    #[arg(long, value_enum)]
    flag: Option<FlagFlag>,
    /// Print the answer of GET /concepts as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// Tell what is known of a concept. Needs no weights.
#[derive(Debug, Args)]
struct ShowArgs {
    /// Global id, or the exact name
    concept: String,
    /// Print the concept and its group as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// List the tokens that a concept promotes, or works against.
#[derive(Debug, Args)]
struct TokensArgs {
    /// Global id, or the exact name
    concept: String,
    /// Tokens shown
    #[arg(short, long, value_name = "N", default_value_t = 15)]
    k: usize,
    /// Those that the concept works against
    #[arg(long)]
    negative: bool,
    /// Print the answer of GET /concepts/{id}/tokens as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HeadFlag {
    Known,
    Unknown,
    Any,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FlagFlag {
    Steerable,
    Tone,
    Alignment,
    Demographic,
}

/// Looks and prints.
///
/// # Errors
/// If the checkpoint or the concept cannot be used.
pub(crate) fn run(args: &ConceptsArgs) -> Result<()> {
    match &args.command {
        ConceptsCommand::Search(args) => search(args),
        ConceptsCommand::Show(args) => show(args),
        ConceptsCommand::Tokens(args) => tokens(args),
    }
}

/// The catalogue alone, in no time.
fn catalog(model: &ModelOptions) -> Result<Catalog> {
    let dir = model.dir();
    let catalog = Catalog::open(&dir, &Config::from_dir(&dir)?)?;
    if let Some(notice) = model.notice() {
        note(format_args!("warning: {notice}"));
    }
    if catalog.is_empty() {
        bail!("this checkpoint has no concepts");
    }
    Ok(catalog)
}

/// The concept with this id or name; an ambiguous name is refused with all that have it.
fn resolve<'a>(catalog: &'a Catalog, concept: &str) -> Result<Concept<'a>> {
    let named = concept.parse().map_or_else(|_| ConceptRef::Name(concept.to_owned()), ConceptRef::Id);
    catalog.resolve("concept", &named).map_err(|error| match error {
        Error::AmbiguousConcept { message, candidates, .. } => {
            let ids: Vec<String> = candidates.iter().map(u32::to_string).collect();
            anyhow::anyhow!("{message}: {}", ids.join(", "))
        }
        Error::UnknownConcept { message, .. } => anyhow::anyhow!("{message}"),
        other => other.into(),
    })
}

fn search(args: &SearchArgs) -> Result<()> {
    let catalog = catalog(&args.model)?;
    let query = args.query.join(" ");
    let default = if query.trim().is_empty() { Filter::default() } else { Filter::REFERENCE };
    let filter = Filter {
        head: args.head.map_or(default.head, |head| match head {
            HeadFlag::Known => Some(Head::Known),
            HeadFlag::Unknown => Some(Head::Unknown),
            HeadFlag::Any => None,
        }),
        steerable: default.steerable.filter(|_| !args.unsteerable),
        flag: args.flag.map(|flag| match flag {
            FlagFlag::Steerable => Flag::Steerable,
            FlagFlag::Tone => Flag::Tone,
            FlagFlag::Alignment => Flag::Alignment,
            FlagFlag::Demographic => Flag::Demographic,
        }),
    };
    let (total, found): (usize, Vec<(Concept<'_>, Option<u64>)>) = if query.trim().is_empty() {
        let page = catalog.list(filter, args.offset, args.limit);
        (page.total, page.items.into_iter().map(|concept| (concept, None)).collect())
    } else {
        let page = catalog.search(&query, filter, args.offset, args.limit)?;
        (page.total, page.items.into_iter().map(|hit| (hit.concept, Some(hit.score))).collect())
    };
    if args.json {
        let item = |(concept, score): &(Concept<'_>, Option<u64>)| {
            let mut item = json!(concept);
            item["score"] = json!(score);
            item
        };
        let items: Vec<_> = found.iter().map(item).collect();
        return emit(&format!("{:#}\n", json!({"total": total, "items": items}))).map(drop);
    }
    let most = found.iter().filter_map(|(_, score)| *score).max().unwrap_or(0) as f32;
    let mut text = String::new();
    for (concept, score) in &found {
        let score = score.map_or_else(String::new, |score| format!("{} {score:>3}  ", bar(score as f32, most)));
        let about = match concept.head {
            Head::Known => one_line(concept.description, 60),
            Head::Unknown => "unknown".to_owned(),
        };
        let name = style(column(concept.name, NAME)).bold();
        text.push_str(format!("{:>6}  {name}  {score}{}", concept.id, style(about).dim()).trim_end());
        text.push('\n');
    }
    emit(&text)?;
    note(format_args!("{} of {total} concepts", found.len()));
    Ok(())
}

fn show(args: &ShowArgs) -> Result<()> {
    let catalog = catalog(&args.model)?;
    let concept = resolve(&catalog, &args.concept)?;
    let members: Vec<Concept<'_>> = catalog.group(concept.id).iter().filter_map(|id| catalog.get(*id)).collect();
    if args.json {
        return emit(&format!("{:#}\n", json!({"concept": concept, "group": members}))).map(drop);
    }
    let flags = concept.flags;
    let set = [
        ("steerable", flags.steerable),
        ("tone", flags.tone),
        ("alignment", flags.alignment),
        ("demographic", flags.demographic),
    ];
    let set: Vec<&str> = set.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    let mut rows = vec![
        ("id".to_owned(), concept.id.to_string()),
        ("head".to_owned(), format!("{} (index {})", concept.head.as_str(), concept.index)),
        ("description".to_owned(), one_line(concept.description, 400)),
        ("flags".to_owned(), if set.is_empty() { "none".to_owned() } else { set.join(", ") }),
    ];
    if let Some(group) = concept.group {
        rows.push((
            "group".to_owned(),
            format!("{} (#{}, {} concepts)", one_line(group.name, 60), group.id, members.len()),
        ));
        let mut others: Vec<String> = members[1..]
            .iter()
            .take(MEMBERS)
            .map(|member| format!("{:>6}  {}", member.id, one_line(member.name, 60)))
            .collect();
        if members.len() > MEMBERS + 1 {
            others.push(format!("… and {} more", members.len() - MEMBERS - 1));
        }
        rows.push(("together with".to_owned(), others.join("\n")));
    }
    emit(&format!("{}\n{}", style(one_line(concept.name, 200)).bold(), table(&rows)))?;
    Ok(())
}

fn tokens(args: &TokensArgs) -> Result<()> {
    // What is wrong with the concept is said before the weights are read.
    let catalog = catalog(&args.model)?;
    let concept = resolve(&catalog, &args.concept)?;
    let runtime = super::load(&args.model.source(), &args.model.runtime())?;
    let key = match concept.head {
        Head::Known => ConceptKey::Known(concept.index),
        Head::Unknown => ConceptKey::Unknown(concept.index),
    };
    let top = runtime.model().concept_top_tokens(key, args.k, args.negative)?;
    let sign = if args.negative { "negative" } else { "positive" };
    if args.json {
        let token = |(id, alignment): &(u32, f32)| json!({"id": id, "text": runtime.tokenizer().token_text(*id), "alignment": alignment});
        let tokens: Vec<_> = top.iter().map(token).collect();
        return emit(&format!("{:#}\n", json!({"concept": concept, "sign": sign, "tokens": tokens}))).map(drop);
    }
    let most = top.iter().map(|(_, alignment)| alignment.abs()).fold(0.0, f32::max);
    let verb = if args.negative { "works against" } else { "promotes" };
    let mut text = format!("{} {verb}\n", style(one_line(concept.name, 200)).bold());
    for (id, alignment) in top {
        // Quoted, as most tokens begin with a space.
        let token = column(&format!("{:?}", runtime.tokenizer().token_text(id)), 24);
        text.push_str(&format!("  {id:>6}  {token}  {} {alignment:>8.4}\n", bar(alignment, most)));
    }
    emit(&text)?;
    Ok(())
}
