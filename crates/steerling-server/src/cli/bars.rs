//! Numbers as bars, for terminals and files alike.

use console::style;

/// Columns of a full bar.
const WIDTH: usize = 24;

/// A bar of `value` against `most`, to an eighth of a column; negative numbers are red.
pub(crate) fn bar(value: f32, most: f32) -> String {
    let share = if most > 0.0 { (value.abs() / most).clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * (WIDTH * 8) as f32).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if let Some(part) = ["▏", "▎", "▍", "▌", "▋", "▊", "▉"].get((eighths % 8).wrapping_sub(1)) {
        text.push_str(part);
    }
    let padding = " ".repeat(WIDTH - eighths.div_ceil(8));
    let bar = if value < 0.0 { style(text).red() } else { style(text).cyan() };
    format!("{bar}{padding}")
}

/// A text in one line of at most `columns`, without what a terminal would obey.
pub(crate) fn one_line(text: &str, columns: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    console::truncate_str(&flat, columns, "…").into_owned()
}

/// A text in one line, filled to `columns`.
pub(crate) fn column(text: &str, columns: usize) -> String {
    console::pad_str(&one_line(text, columns), columns, console::Alignment::Left, None).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_by_eighths_and_always_takes_the_same_columns() {
        for n in -9..=9 {
            let text = console::strip_ansi_codes(&bar(n as f32 / 8.0, 1.0)).into_owned();
            assert_eq!(console::measure_text_width(&text), WIDTH, "{n}");
        }
        assert!(bar(1.0 / 192.0, 1.0).contains('▏'));
        assert!(bar(1.0, 0.0).trim().is_empty());
        assert_eq!(console::strip_ansi_codes(&bar(2.0, 1.0)), "█".repeat(WIDTH));
    }

    #[test]
    fn no_text_moves_the_cursor() {
        assert_eq!(one_line("a\x1b[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }
}
