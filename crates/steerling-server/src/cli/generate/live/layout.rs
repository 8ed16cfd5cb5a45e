//! Text and marks -> rows of a terminal.

use console::measure_text_width;

/// A tab, spelled out: how wide a terminal makes it depends on where it stands.
const TAB: &str = "    ";

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text of finished blocks.
    Base,
    /// Committed in an earlier frame.
    Committed,
    /// Committed since the last frame.
    Fresh,
    /// Not decided.
    Masked,
}

/// A token, a masked position, or the text of finished blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// One row of the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Row {
    pub(super) spans: Vec<(Kind, String)>,
    /// Bytes of finished text that the row shows, its line break included.
    pub(super) base_bytes: usize,
    /// It shows nothing but finished text, to the last column or a line break.
    pub(super) settled: bool,
    broken: bool,
    width: usize,
}

impl Row {
    /// Without styles.
    pub(super) fn text(&self) -> String {
        self.spans.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// What ends the row: nothing where the terminal wraps by itself, so that copied text has no break there.
    pub(super) fn line_end(&self) -> &'static str {
        if self.broken { "\r\n" } else { "" }
    }

    fn push(&mut self, kind: Kind, text: &str, width: usize) {
        match self.spans.last_mut() {
            Some((last, span)) if *last == kind => span.push_str(text),
            _ => self.spans.push((kind, text.to_owned())),
        }
        self.width += width;
    }
}

/// Breaks pieces into rows of `width` columns; at least one row.
pub(super) fn layout(pieces: &[Piece], width: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = Row::default();
    let mut all_base = true;
    for piece in pieces {
        for c in piece.text.chars() {
            let base = piece.kind == Kind::Base;
            let bytes = if base { c.len_utf8() } else { 0 };
            if c == '\n' {
                row.broken = true;
                row.base_bytes += bytes;
                row.settled = all_base && base;
                rows.push(std::mem::take(&mut row));
                all_base = true;
                continue;
            }
            row.base_bytes += bytes;
            if c == '\r' {
                // It would overwrite the row; a line break of which it is a part comes with the next character.
                continue;
            }
            let mut buffer = [0; 4];
            let text = if c == '\t' { TAB } else { printable(c).encode_utf8(&mut buffer) };
            let columns = measure_text_width(text);
            if row.width + columns > width {
                row.settled = all_base;
                row.base_bytes -= bytes;
                rows.push(std::mem::take(&mut row));
                row.base_bytes = bytes;
                all_base = true;
            }
            row.push(piece.kind, text, columns);
            all_base &= base;
        }
    }
    rows.push(row);
    rows
}

/// A character that cannot do anything to a terminal but stand there: a model may write escape codes.
pub(super) fn printable(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        '\x7f' => '\u{2421}',
        '\0'..'\x20' => char::from_u32(0x2400 + c as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{80}'..='\u{9f}' => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, kind: Kind) -> Piece {
        Piece { text: text.to_owned(), kind }
    }

    fn texts(rows: &[Row]) -> Vec<String> {
        rows.iter().map(Row::text).collect()
    }

    #[test]
    fn rows_end_at_the_width_and_at_line_breaks() {
        let rows = layout(&[piece("abcdefgh\nxy", Kind::Base), piece("░", Kind::Masked)], 5);
        assert_eq!(texts(&rows), ["abcde", "fgh", "xy░"]);
        assert_eq!(rows.iter().map(Row::line_end).collect::<Vec<_>>(), ["", "\r\n", ""]);
    }

    #[test]
    fn only_rows_of_finished_text_alone_are_settled_and_count_its_bytes() {
        let rows = layout(&[piece("aéb\ncd", Kind::Base), piece("e\nf", Kind::Committed)], 80);
        assert_eq!(rows.iter().map(|row| row.settled).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(rows.iter().map(|row| row.base_bytes).collect::<Vec<_>>(), [5, 2, 0]);
    }

    #[test]
    fn wide_characters_do_not_straddle_rows() {
        let rows = layout(&[piece("ab日本", Kind::Base)], 5);
        assert_eq!(texts(&rows), ["ab日", "本"]);
        assert_eq!(texts(&layout(&[piece("abc日本", Kind::Base)], 4)), ["abc", "日本"]);
    }

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        let rows = layout(&[piece("\x1b[2J\u{9b}\t!", Kind::Fresh)], 80);
        assert_eq!(texts(&rows), ["␛[2J\u{FFFD}    !"]);
    }

    #[test]
    fn a_carriage_return_takes_no_column_and_is_counted() {
        let rows = layout(&[piece("ab\r\ncd", Kind::Base)], 80);
        assert_eq!(texts(&rows), ["ab", "cd"]);
        assert_eq!(rows.iter().map(|row| row.base_bytes).collect::<Vec<_>>(), [4, 2]);
    }

    #[test]
    fn bytes_of_finished_text_are_counted_in_the_row_that_shows_them() {
        let rows = layout(&[piece("abcé日", Kind::Base)], 3);
        assert_eq!(texts(&rows), ["abc", "é日"]);
        assert_eq!(rows.iter().map(|row| row.base_bytes).collect::<Vec<_>>(), [3, 5]);
    }
}
