//! Which known name a misspelt one is meant to be.

/// How alike two names must be, from 0 to 1, for one to be suggested for the other.
const ALIKE: f64 = 0.65;

/// How alike a name and its slip are: a letter or two in a word.
const SLIP: f64 = 0.8;

/// The known name that `name` is likely to be a slip of.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|other| (likeness(name, other), other));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// Whether `name` differs from one of the known names by hardly more than a typing error.
pub(crate) fn is_slip(name: &str, known: &[&str]) -> bool {
    known.iter().any(|other| likeness(name, other) >= SLIP)
}

/// From 0 to 1, without case and separators.
fn likeness(name: &str, other: &str) -> f64 {
    let (name, other) = (plain(name), plain(other));
    // Typing errors, and parts that are left out or added at the end: `top_token`, `max_tokens`.
    strsim::normalized_damerau_levenshtein(&name, &other).max(strsim::jaro_winkler(&name, &other) - 0.15)
}

/// What is said of a name that is not known: the nearest one, or all if they are few.
pub(crate) fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    const FEW: usize = 12;
    let near = nearest(name, known.iter().copied());
    let name = cut(name);
    match near {
        Some(near) => format!("unknown {kind} `{name}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown {kind} `{name}`; there are none here"),
        None if known.len() <= FEW => format!("unknown {kind} `{name}`; there are {}", listed(known)),
        None => format!("unknown {kind} `{name}`"),
    }
}

/// Names in backticks, separated by commas.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// What is said of a word that is none of those that are known.
pub(crate) fn not_one_of<S: AsRef<str>>(word: &str, words: &[S]) -> String {
    let near = nearest(word, words.iter().map(AsRef::as_ref));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("`{}` is none of {}{near}", cut(word), listed(words))
}

/// The beginning of a long text.
pub(crate) fn cut(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Without case and separators: `maxTokens` is `max_tokens`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_name_and_other_words_none() {
        let known = ["temperature", "top_p", "max_new_tokens", "stop_tokens", "stop", "seed", "stream", "stream_every"];
        for (slip, name) in [
            ("temprature", "temperature"),
            ("Temperature", "temperature"),
            ("topP", "top_p"),
            ("maxNewTokens", "max_new_tokens"),
            ("max_tokens", "max_new_tokens"),
            ("stop_token", "stop_tokens"),
            ("stops", "stop"),
            ("sed", "seed"),
            ("steam", "stream"),
        ] {
            assert_eq!(nearest(slip, known), Some(name), "{slip}");
        }
        for other in ["colour", "messages", "x", ""] {
            assert_eq!(nearest(other, known), None, "{other}");
        }
    }
}
