//! A terminal that shows the block being unmasked in place, below the text that is finished.
//!
//! The bottom rows are drawn anew at every frame: the last, unfinished row of the finished text, the block, and a
//! status line. Rows that can no longer change are written once and then left to the terminal, which scrolls and
//! copies them like any other output.

mod layout;

use std::time::{Duration, Instant};

use anyhow::Result;
use console::{Style, Term};
use steerling::{Canvas, Outcome, StepUpdate, Tokenizer};

use super::emit;
use layout::{Kind, Piece, Row, layout, printable};

/// Time between two frames; a small model takes a thousand steps a second.
const FRAME: Duration = Duration::from_millis(33);
/// Ids before a block that decide how its first token is written.
const CONTEXT_IDS: usize = 8;

/// The terminal and what stands on it.
pub(super) struct Live {
    term: Term,
    tokenizer: Tokenizer,
    steps: usize,
    prompt_tokens: usize,
    /// Final text so far.
    text: String,
    /// Bytes of it that belong to blocks before the current one.
    base: usize,
    /// Bytes of it that are on the terminal for good.
    flushed: usize,
    block: usize,
    /// Positions committed since the last frame.
    fresh: Vec<usize>,
    drawn: Option<Instant>,
    /// Rows of the part that is drawn anew.
    rows: usize,
    hidden: bool,
}

impl Live {
    /// A view of `canvas`; nothing is written yet.
    pub(super) fn new(canvas: &Canvas, tokenizer: Tokenizer) -> Self {
        Self {
            term: Term::stdout(),
            tokenizer,
            steps: canvas.blocks().iter().map(|block| block.steps).sum(),
            prompt_tokens: canvas.prompt_len(),
            text: String::new(),
            base: 0,
            flushed: 0,
            block: 0,
            fresh: Vec::new(),
            drawn: None,
            rows: 0,
            hidden: false,
        }
    }

    /// The first frame: nothing is committed yet.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.hidden = true;
        self.term.hide_cursor()?;
        let status = format!("reading the prompt of {} tokens", self.prompt_tokens);
        self.draw(&[], &status)
    }

    /// A step was taken.
    pub(super) fn show(&mut self, update: &StepUpdate, canvas: &Canvas, decode: Duration) -> Result<()> {
        if update.block != self.block {
            self.base = self.text.len();
            self.block = update.block;
        }
        self.text.push_str(&update.delta);
        self.fresh.extend(update.commits.iter().map(|commit| commit.position));
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < FRAME) {
            return Ok(());
        }
        self.drawn = Some(Instant::now());
        let before = &canvas.ids()[canvas.prompt_len()..update.start];
        let pieces = block_pieces(&self.tokenizer, update, &self.fresh, before);
        let status = format!(
            "block {}/{} · step {}/{} · {} masked · {:.1} tokens/s",
            update.block + 1,
            canvas.blocks().len(),
            update.step + 1,
            self.steps,
            update.masked,
            canvas.commits().len() as f64 / decode.as_secs_f64().max(1e-9),
        );
        self.draw(&pieces, &status)?;
        self.fresh.clear();
        Ok(())
    }

    /// Leaves the finished text behind, and the terminal as it was. Without an outcome, what is final of it.
    pub(super) fn finish(&mut self, outcome: Option<&Outcome>) -> Result<()> {
        let text = outcome.map_or(self.text.as_str(), |outcome| outcome.text.as_str());
        let rest: String =
            text.get(self.flushed..).unwrap_or_default().chars().filter(|c| *c != '\r').map(printable).collect();
        // A cursor that stays in an empty row needs no further line break.
        let end = if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" };
        let frame = format!("{}{rest}{end}", self.erase());
        self.rows = 0;
        self.show_cursor()?;
        emit(&frame)?;
        Ok(())
    }

    fn draw(&mut self, block: &[Piece], status: &str) -> Result<()> {
        let (height, width) = self.term.size();
        let (height, width) = (usize::from(height).max(3), usize::from(width).max(8));
        let mut pieces = vec![Piece { text: self.text[self.flushed..self.base].to_owned(), kind: Kind::Base }];
        pieces.extend_from_slice(block);
        let rows = layout(&pieces, width);
        let settled = rows.iter().take_while(|row| row.settled).count().min(rows.len() - 1);
        // The terminal's last rows, as what has scrolled away cannot be drawn anew. The status needs one; the topmost
        // stays out, because some terminals copy a screen to their history when it is cleared from its first cell.
        let shown = settled.max(rows.len().saturating_sub(height - 2));
        let mut frame = self.erase();
        for row in &rows[..settled] {
            frame.push_str(&row.text());
            frame.push_str(row.line_end());
        }
        if shown > settled && settled > 0 && rows[settled - 1].line_end().is_empty() {
            frame.push_str("\r\n");
        }
        for row in &rows[shown..] {
            frame.push_str(&styled(row));
            frame.push_str(row.line_end());
        }
        let status: String = status.chars().take(width - 1).collect();
        frame.push_str(&format!("\r\n{}", Style::new().dim().apply_to(status)));
        self.flushed += rows[..settled].iter().map(|row| row.base_bytes).sum::<usize>();
        self.rows = rows.len() - shown + 1;
        // Between these two, terminals that know them show nothing half drawn.
        emit(&format!("\x1b[?2026h{frame}\x1b[?2026l"))?;
        Ok(())
    }

    /// Moves to the start of what is drawn anew, and clears it.
    fn erase(&self) -> String {
        match self.rows {
            0 => String::new(),
            1 => "\r\x1b[J".to_owned(),
            rows => format!("\r\x1b[{}A\x1b[J", rows - 1),
        }
    }

    fn show_cursor(&mut self) -> Result<()> {
        if std::mem::take(&mut self.hidden) {
            self.term.show_cursor()?;
        }
        Ok(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Only after a failure: `finish` has done it otherwise.
        _ = self.show_cursor();
    }
}

fn styled(row: &Row) -> String {
    let style = |kind: Kind| match kind {
        Kind::Base | Kind::Committed => Style::new(),
        Kind::Fresh => Style::new().green().bold(),
        Kind::Masked => Style::new().dim(),
    };
    row.spans.iter().map(|(kind, text)| style(*kind).apply_to(text).to_string()).collect()
}

/// The block position by position. A token's text is what it adds to that of the ids before it; behind a gap, where
/// they are not known, what it adds to itself.
fn block_pieces(tokenizer: &Tokenizer, update: &StepUpdate, fresh: &[usize], before: &[u32]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(update.ids.len());
    let mut run = before[before.len().saturating_sub(CONTEXT_IDS)..].to_vec();
    let mut known = tokenizer.decode(&run, true);
    let mut gap = false;
    for (i, id) in update.ids.iter().enumerate() {
        let Some(id) = *id else {
            gap = true;
            pieces.push(Piece { text: "░".to_owned(), kind: Kind::Masked });
            continue;
        };
        if std::mem::take(&mut gap) {
            run = vec![id];
            known = tokenizer.decode(&run, true);
        }
        run.push(id);
        let full = tokenizer.decode(&run, true);
        // An unfinished character shows as a replacement until the token that completes it.
        let whole = known.trim_end_matches('\u{FFFD}');
        if full.len() != known.len()
            && !full.starts_with(&known)
            && let Some(last) = pieces.last_mut()
            && last.kind != Kind::Masked
        {
            last.text.truncate(last.text.trim_end_matches('\u{FFFD}').len());
        }
        let text = full.strip_prefix(&known).or_else(|| full.strip_prefix(whole)).unwrap_or_default().to_owned();
        let kind = if fresh.contains(&(update.start + i)) { Kind::Fresh } else { Kind::Committed };
        pieces.push(Piece { text, kind });
        known = full;
    }
    pieces
}
