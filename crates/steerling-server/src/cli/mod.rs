//! The commands.

mod attribute;
mod bars;
mod bench;
mod concepts;
mod config;
mod doctor;
mod download;
mod embed;
mod generate;
mod health;
mod inspect;
mod key;
mod openapi;
mod output;
mod progress;
mod quantize;
mod serve;
mod steer;
mod synthesize;

use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use steerling_server::config::{ConfigFile, Secrets, ServeOptions, Setting, settings};

pub(crate) use output::note;
pub(crate) use progress::load;

/// An inference server for Steerling, the interpretable causal diffusion language model.
///
/// Without a command it serves, with the options of `serve`.
#[derive(Debug, Parser)]
#[command(name = "steerling", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Box<ServeOptions>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests over HTTP (what a bare `steerling` does)
    Serve(Box<ServeOptions>),
    /// Print the configuration that `serve` would have, and where each value comes from
    Config(Box<config::ConfigArgs>),
    /// Check whether `serve` would work on this machine, and say what to do if not
    Doctor(Box<ServeOptions>),
    /// Ask a server on this machine whether it takes generations
    Health(health::HealthArgs),
    /// Make an API key and print its table for the configuration file
    Key(key::KeyArgs),
    /// Fetch a model from a model hub into a directory
    Download(download::DownloadArgs),
    /// Generate text, shown as it is unmasked
    Generate(Box<generate::GenerateArgs>),
    /// Embed texts, as vectors or as the concepts in them
    Embed(embed::EmbedArgs),
    /// Look into the concepts: search, show, tokens
    Concepts(concepts::ConceptsArgs),
    /// Generate text under steering, beside the unsteered text if wanted
    Steer(Box<steer::SteerArgs>),
    /// Generate text and tell which concepts made each token
    Attribute(Box<attribute::AttributeArgs>),
    /// Tell what a checkpoint holds, and everything that is wrong with it
    Inspect(inspect::InspectArgs),
    /// Write a checkpoint to one GGUF file with fewer bits a weight
    Quantize(quantize::QuantizeArgs),
    /// Write a checkpoint with random weights
    Synthesize(synthesize::SynthesizeArgs),
    /// Measure denoising steps on this machine, or put load on a running server
    Bench(Box<bench::BenchArgs>),
    /// Print the OpenAPI document
    Openapi,
}

/// Does what the command line says.
pub(crate) fn run() -> anyhow::Result<()> {
    let cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(options) => serve::run(&configured(options.config.as_deref())?),
        Command::Config(args) if args.template => config::template(),
        Command::Config(args) => config::run(&configured(args.options.config.as_deref())?),
        Command::Doctor(options) => doctor::run(configured(options.config.as_deref())),
        Command::Health(args) => health::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Download(args) => download::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Concepts(args) => concepts::run(&args),
        Command::Steer(args) => steer::run(&args),
        Command::Attribute(args) => attribute::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Synthesize(args) => synthesize::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Openapi => openapi::run(),
    }
}

/// The command line. A negative number behind a flag is its value, so that a refusal names the flag.
fn command() -> clap::Command {
    fn of(command: clap::Command) -> clap::Command {
        let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let command = command.mut_args(|arg| {
            let has_value = arg.get_long().is_some() && arg.get_action().takes_values();
            if has_value { arg.allow_negative_numbers(true) } else { arg }
        });
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, of))
    }
    of(Cli::command())
}

/// Everything that configures `serve`, put together.
pub(crate) struct Configured {
    pub(crate) options: ServeOptions,
    pub(crate) settings: Vec<Setting>,
    pub(crate) file: ConfigFile,
}

/// Parses the command line once more, now with the values of the file for defaults. What was wrong with flags and
/// environment has ended the program the first time.
fn configured(named: Option<&Path>) -> anyhow::Result<Configured> {
    let file = ConfigFile::find(named).map_err(anyhow::Error::msg)?;
    let mut command = file.defaults(command());
    for name in ["serve", "config", "doctor"] {
        command = command.mut_subcommand(name, |command| file.defaults(command));
    }
    let matches = command.try_get_matches_from(std::env::args_os()).map_err(|error| {
        let text = error.to_string();
        let reason = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        anyhow::anyhow!("{}: {reason}", file.path.as_deref().unwrap_or(Path::new("")).display())
    })?;
    let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    let mut options = ServeOptions::from_arg_matches(matches)?;
    let secrets = Secrets::from_env();
    options.complete(&file, &secrets).map_err(anyhow::Error::msg)?;
    Ok(Configured { settings: settings(matches, &file), options, file })
}

/// An error and its causes in one line; a cause that the message before already tells is left out.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}
