// One generation: what has come of it so far, and how it looks after any of its steps.

import { joined } from "./characters.js";
import { copy } from "./share.js";
import { flash, gap, h, percent, visible } from "./dom.js";

/** How the server shows a position that is not decided. */
const MASKED = "░";
/** Characters of the prompt that are repeated above the text: its end, where the text goes on. */
const PROMPT = 300;

function titleOf(name, { sweep }) {
  const [kind, number] = (name ?? "text").split("-");
  if (kind === "sweep") return `Strength × ${sweep?.[number]}`;
  if (kind === "control") return `Random concept ${Number(number) + 1}`;
  return { text: "Text", default: "Unsteered", steered: "Steered" }[kind] ?? name;
}

export class Lane {
  /**
   * `select` is told what is clicked: `{token}` with its position, `{chunk}` with its number, or `{answer}`, the text of a
   * chat's turn. `changed` is told that there is something to draw.
   */
  constructor(name, body, { select, changed }) {
    const { prompt, messages } = body;
    const excerpt = typeof prompt === "string" ? [...prompt] : [];
    this.name = name;
    this.title = titleOf(name, body);
    this.start = null;
    /** Position -> commit: `{position, id, text, confidence, step}`. */
    this.commits = new Map();
    /** Position of the first token of a character that is cut into several -> `{length, commit}` of the whole. */
    this.joined = new Map();
    /** Position of each token of such a character -> that of the first. */
    this.first = new Map();
    /** Steps that have been taken. */
    this.reached = 0;
    /** Position -> why it was committed. */
    this.tokens = new Map();
    this.chunks = [];
    this.result = null;
    /** First position and the one behind the last, of each generation block. */
    this.blocks = [];
    this.cells = new Map();
    this.marked = [];
    this.select = select;
    this.changed = changed;
    this.facts = h("p.facts");
    this.grid = h("div.blocks", {
      dir: "auto",
      onclick: (event) => this.clicked(event),
      onkeydown: (event) => this.key(event),
      onfocusin: (event) => this.focused(event),
    });
    this.chunkList = h("span.chunks", { role: "group", "aria-label": `Chunks, ${this.title}` });
    this.copy = h("button.quiet.small", "Copy text");
    this.copy.addEventListener("click", async () =>
      flash(this.copy, (await copy(this.text())) ? "Copied" : "Not allowed"),
    );
    this.reply = h(
      "button.quiet.small",
      { hidden: true, onclick: () => this.select({ lane: this, answer: this.text() }) },
      "Reply",
    );
    const heading = h("h3", this.title);
    this.element = h(
      "section.lane",
      { "aria-label": this.title },
      h("header", heading, this.facts),
      excerpt.length > 0 &&
        h("p.prompt", { dir: "auto" }, (excerpt.length > PROMPT ? "…" : "") + excerpt.slice(-PROMPT).join("")),
      this.grid,
      h("footer", this.chunkList, messages && this.reply, this.copy),
    );
    this.element.dataset.lane = name ?? "text";
  }

  /** Takes in an event of the stream. */
  event(name, data) {
    switch (name) {
      case "start":
        this.start = data;
        this.divide(0, data.prompt_tokens, data.block_size);
        break;
      case "block":
        if (this.blocks[data.block]?.[1] !== data.start + data.ids.length)
          this.divide(data.block, data.start, data.ids.length);
        for (const commit of data.commits) this.commit({ ...commit, step: data.step });
        if (data.final) this.join();
        break;
      case "attribution":
        for (const token of data.tokens) this.tokens.set(token.position, token);
        break;
      case "done":
        this.finish(data);
    }
  }

  finish(result) {
    this.result = result;
    this.reply.hidden = false;
    // Steps of a block that arrived in one event: the trace knows which was which.
    for (const commit of result.trace?.commits ?? []) this.commit(commit);
    const { tokens = [], chunks = [] } = result.attribution ?? {};
    for (const token of tokens) this.tokens.set(token.position, token);
    this.chunks = chunks;
    this.join();
    const button = (chunk, i) => {
      const concept = chunk.concepts.find(({ head, score }) => head === "known" && score > 0);
      const label = [`Chunk ${i + 1}`, concept && " · ", concept && h("bdi", concept.name)];
      return h("button.quiet.small", { onclick: () => this.select({ lane: this, chunk: i }) }, label);
    };
    this.chunkList.replaceChildren(...chunks.map(button));
  }

  /** The stream has ended without the result: what there is is no text, and does not look like one. */
  cut() {
    this.incomplete = true;
    this.element.classList.add("incomplete");
    this.copy.textContent = this.copy.dataset.label = "Copy incomplete text";
    this.join();
  }

  /** Finds the characters that are cut into several tokens: each has one cell. */
  async join() {
    const turn = (this.joining = {});
    const tokens = [];
    for (const commit of this.commits.values()) tokens[commit.position] = commit;
    const found = await joined(tokens);
    if (this.joining !== turn) return;
    this.joining = null;
    this.joined.clear();
    this.first.clear();
    for (const [position, { length, text }] of found) {
      const parts = tokens.slice(position, position + length);
      const confidence = Math.min(...parts.map((part) => part.confidence));
      const step = Math.max(...parts.map((part) => part.step));
      this.joined.set(position, { length, commit: { position, text, confidence, step } });
      parts.forEach((part) => this.first.set(part.position, position));
    }
    if (found.size > 0) this.cells.clear();
    this.changed();
  }

  /** Where the cell begins in which a position is shown. */
  cellOf(position) {
    return this.first.get(position) ?? position;
  }

  /** Blocks from one on: the first has `size` positions, the others as many as the start says. */
  divide(block, start, size) {
    const end = this.start.prompt_tokens + this.start.max_new_tokens;
    this.blocks.length = block;
    for (let at = start; at < end; ) {
      const next = Math.min(at + (this.blocks.length === block ? size : this.start.block_size), end);
      this.blocks.push([at, next]);
      at = next;
    }
    this.cells.clear();
  }

  commit(commit) {
    this.commits.set(commit.position, commit);
    this.reached = Math.max(this.reached, commit.step + 1);
  }

  steps() {
    return this.start?.steps ?? 0;
  }

  /** The final text, or what there is of it, with the sign for masked positions. */
  text() {
    if (this.result) return this.result.text;
    let text = "";
    const last = Math.max(-1, ...this.commits.keys());
    for (let at = this.start?.prompt_tokens ?? 0; at <= last; at += this.joined.get(at)?.length ?? 1)
      text += this.at(at)?.text ?? MASKED;
    return text;
  }

  /** What stands in the cell that begins at a position: a commit, or a character that several commits made. */
  at(position) {
    return this.joined.get(position)?.commit ?? this.commits.get(position);
  }

  /** Shows what was committed in the first `step` steps; unless `settled`, the newest tokens are marked. Touches only what changes. */
  draw(step, settled) {
    if (this.cells.size === 0) this.build();
    const end = this.result ? this.start.prompt_tokens + this.result.completion_tokens : Infinity;
    for (const [position, cell] of this.cells) {
      const commit = this.at(position);
      const shown = commit && commit.step < step ? commit : null;
      const state = shown && (shown.step === step - 1 && !settled ? "fresh" : position >= end ? "after" : "set");
      if (cell.shown === shown && cell.state === state) continue;
      Object.assign(cell, { shown, state });
      fill(cell.token, shown, state);
    }
    const facts = this.describe();
    if (this.facts.textContent !== facts) this.facts.textContent = facts;
  }

  build() {
    const boxes = this.blocks.map(([start, end], i) => {
      const cells = [];
      for (let position = start; position < end; position++) {
        if (this.cellOf(position) !== position) continue;
        // Not a <button>: those do not break across lines as text does.
        const token = h("span.token.masked");
        token.dataset.position = position;
        this.cells.set(position, { token, shown: undefined, state: undefined });
        cells.push(h("span.cell", "", token));
      }
      const label = `Block ${i + 1}`;
      return h(
        "div.block",
        { role: "group", "aria-label": label },
        // With a direction of its own it has no say in that of the text.
        h("span.block-label", { "aria-hidden": "true", dir: "ltr" }, label),
        cells,
      );
    });
    this.grid.replaceChildren(...boxes);
    this.mark(...this.marked);
  }

  describe() {
    if (!this.result) {
      const count = `${this.commits.size} of ${this.start?.max_new_tokens} tokens`;
      return this.incomplete ? `incomplete · ${count}` : count;
    }
    const { completion_tokens, finish_reason, timings } = this.result;
    const reasons = { length: "", eot: "ended by itself", stop_token: "stop token", stop_string: "stop string" };
    const seconds = (timings.total_ms / 1000).toFixed(timings.total_ms < 10_000 ? 2 : 0);
    return [
      `${completion_tokens} tokens`,
      `${this.reached} steps`,
      `${seconds} s`,
      reasons[finish_reason] ?? finish_reason,
    ]
      .filter(Boolean)
      .join(" · ");
  }

  /** Marks the token at a position, or a chunk by its number; without either, nothing is marked. */
  mark(token, chunk) {
    this.marked = [token, chunk];
    const first = this.cellOf(token);
    const { start, end } = this.chunks[chunk] ?? { start: 0, end: 0 };
    for (const [position, cell] of this.cells) {
      cell.token.classList.toggle("selected", position === first);
      cell.token.classList.toggle("in-chunk", position >= start && position < end);
      if (cell.shown) cell.token.setAttribute("aria-pressed", String(position === first));
    }
    [...this.chunkList.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === chunk)));
  }

  clicked({ target }) {
    const token = target.closest(".token[role]");
    if (token) this.select({ lane: this, token: Number(token.dataset.position) });
  }

  /** Tokens that are there to be clicked. */
  shown() {
    return [...this.cells.values()].filter((cell) => cell.shown).map((cell) => cell.token);
  }

  /** Arrow keys go from token to token; the tab key passes the whole text in one go. */
  key(event) {
    if (event.key === "Enter" || event.key === " ") {
      this.clicked(event);
      return event.preventDefault();
    }
    const tokens = this.shown();
    const at = tokens.indexOf(event.target);
    const to = {
      ArrowRight: () => at + 1,
      ArrowLeft: () => at - 1,
      Home: () => 0,
      End: () => tokens.length - 1,
      ArrowDown: () => below(tokens, at, 1),
      ArrowUp: () => below(tokens, at, -1),
    }[event.key];
    if (at < 0 || !to) return;
    event.preventDefault();
    tokens[to()]?.focus();
  }

  focused({ target }) {
    for (const token of this.shown()) token.tabIndex = token === target ? 0 : -1;
  }

  /** The tab key reaches the first token, unless one has the focus already. */
  reachable() {
    if (!this.grid.contains(document.activeElement)) this.focused({ target: this.shown()[0] });
  }
}

/** The token of the next line that is nearest. */
function below(tokens, at, direction) {
  if (at < 0) return undefined;
  const from = tokens[at].getBoundingClientRect();
  const distance = (token) => {
    const to = token.getBoundingClientRect();
    const down = (to.top - from.top) * direction;
    return down < 2 ? Infinity : down * 1000 + Math.abs(to.left - from.left);
  };
  const distances = tokens.map(distance);
  const least = Math.min(...distances);
  return least === Infinity ? at : distances.indexOf(least);
}

function fill(token, commit, state) {
  const marks = ["selected", "in-chunk"].filter((mark) => token.classList.contains(mark));
  token.className = ["token", state ?? "masked", ...marks].join(" ");
  token.textContent = commit ? visible(commit.text) : "";
  token.previousSibling.data = commit ? gap(commit.text) : " ";
  token.style.setProperty("--confidence", commit ? commit.confidence.toFixed(3) : 0);
  token.parentElement.classList.toggle("line-end", Boolean(commit?.text.includes("\n")));
  const attributes = {
    role: "button",
    tabindex: -1,
    "aria-pressed": token.classList.contains("selected"),
    title: commit && `${visible(commit.text)}: ${percent(commit.confidence)} sure, step ${commit.step + 1}`,
  };
  for (const [name, value] of Object.entries(attributes)) {
    if (commit) token.setAttribute(name, value);
    else token.removeAttribute(name);
  }
}
