//! Between a sentence's text and its words and marks.

const MARKS: &str = ".,?!:;\"-";

/// The words and marks of a text.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for mut part in text.split_whitespace() {
        while let Some(at) = part.find(|letter| MARKS.contains(letter)) {
            if at > 0 {
                tokens.push(&part[..at]);
            }
            tokens.push(&part[at..=at]);
            part = &part[at + 1..];
        }
        if !part.is_empty() {
            tokens.push(part);
        }
    }
    tokens
}

/// The text of a sentence; the first word is capitalised unless it is in a list line.
pub(super) fn sentence(words: &[&str]) -> String {
    let mut text = String::new();
    let (mut glue, mut quoted) = (true, false);
    let mut capital = words.first() != Some(&"-");
    for word in words {
        let quote = *word == "\"";
        let closes = if quote { quoted } else { word.len() == 1 && ".,?!:;".contains(word) };
        if !glue && !closes {
            text.push(' ');
        }
        glue = quote && !quoted;
        quoted ^= quote;
        if capital && !quote {
            text.push_str(&word[..1].to_ascii_uppercase());
            text.push_str(&word[1..]);
            capital = false;
        } else {
            text.push_str(word);
        }
    }
    text
}

/// The finished sentences of a text: each ends with its mark or its line.
pub(super) fn finished(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (at, letter) in text.char_indices().filter(|(_, letter)| ".?!\n".contains(*letter)) {
        let sentence = text[start..at + letter.len_utf8()].trim();
        if !sentence.is_empty() {
            sentences.push(sentence);
        }
        start = at + letter.len_utf8();
    }
    sentences
}
