// Why a token, what is in a chunk, what a concept does: the panel beside the text.

import { getJson, postJson } from "./api.js";
import { h, percent, signed, track, visible } from "./dom.js";
import { heat } from "./heat.js";

/** Concepts of each kind that are listed; the sums are over all of them. */
const LISTED = 6;
/** Shortest bar, as a share of the longest. */
const LEAST = 0.02;
const KINDS = { known: "Known concepts", unknown: "Unknown concepts" };
const METHODS = {
  integrated_gradients: "Integrated gradients",
  input_x_gradient: "Input × gradient",
  occlusion: "Occlusion",
};

export class Inspector {
  /** `steer(concept, direction)` adds it to the request and runs again; `refuse(refusal)` shows an error. */
  constructor(root, { steer, refuse }) {
    this.root = root;
    this.steer = steer;
    this.refuse = refuse;
    this.method = "integrated_gradients";
    this.clear();
  }

  clear() {
    this.shown = null;
    this.lane?.mark();
    this.lane = null;
    const hint = "Click a token of the text for the concepts that chose it, or a chunk for what it is about.";
    this.show(h("div.hint-box", h("h2", "Why this token?"), h("p", hint)));
  }

  show(...children) {
    this.root.replaceChildren(...children.filter(Boolean));
  }

  /** What is clicked in a lane: `{lane, token}` or `{lane, chunk}`. */
  select(selected) {
    this.lane?.mark();
    const { lane, token, chunk } = selected;
    this.shown = selected;
    this.lane = lane;
    if (token !== undefined) {
      lane.mark(token);
      this.token(lane, token);
    } else {
      lane.mark(null, chunk);
      this.chunk(lane, chunk);
    }
  }

  token(lane, position) {
    const commit = lane.commits.get(position);
    const why = lane.tokens.get(position);
    const facts = [lane.title, `position ${position}`, `step ${commit.step + 1}`, `${percent(commit.confidence)} sure`];
    const { text } = lane.at(lane.cellOf(position));
    const head = h("header", h("h2", h("bdi.sample", visible(text))), h("p.facts", facts.join(" · ")));
    const missing = h("p.hint", "This run was not explained. Turn on “Explain every token by concepts” and run again.");
    this.show(
      head,
      this.parts(lane, position),
      why ? this.split(why) : missing,
      why && this.concepts(why),
      this.inputs(lane, position),
    );
  }

  /** The tokens of a character that is cut into several: each was chosen for itself. */
  parts(lane, position) {
    const first = lane.cellOf(position);
    const length = lane.joined.get(first)?.length;
    if (!length) return null;
    const part = (_, i) => {
      const pressed = String(first + i === position);
      const onclick = () => {
        this.select({ lane, token: first + i });
        this.root.querySelectorAll(".parts button")[i].focus();
      };
      return h("button.small", { "aria-pressed": pressed, onclick }, `Token ${i + 1}`);
    };
    return h(
      "div.actions.parts",
      { role: "group", "aria-label": "Tokens of this character" },
      Array.from({ length }, part),
    );
  }

  /** The three parts of the logit. */
  split({ fractions, known_total, unknown_total, epsilon, target_logit }) {
    const parts = [
      ["known", "Known", known_total],
      ["unknown", "Unknown", unknown_total],
      ["epsilon", "Epsilon", epsilon],
    ];
    const bar = parts.map(([kind]) => h("span", { class: kind, "--share": fractions[kind] }));
    const row = ([kind, label, logits]) =>
      h(
        "tr",
        h("th", { scope: "row" }, h("i", { class: `dot ${kind}` }), label),
        h("td", percent(fractions[kind])),
        h("td", signed(logits)),
      );
    return h(
      "section.split",
      { "aria-label": "Parts of the logit" },
      h("div.stack", { "aria-hidden": "true" }, bar),
      h(
        "table",
        h(
          "thead",
          h(
            "tr",
            h("th", { scope: "col" }, "Part"),
            h("th", { scope: "col" }, "Share"),
            h("th", { scope: "col" }, "Logits"),
          ),
        ),
        h("tbody", parts.map(row)),
        h("tfoot", h("tr", h("th", { scope: "row" }, "Together"), h("td"), h("td", signed(target_logit)))),
      ),
    );
  }

  concepts({ known, unknown }) {
    const item = ({ contribution, weight, ...concept }) => ({
      concept,
      value: contribution,
      text: signed(contribution),
      title: `weight ${weight.toFixed(2)}`,
    });
    return h(
      "div.why",
      this.bars([
        ["known", known.map(item)],
        ["unknown", unknown.map(item)],
      ]),
    );
  }

  /** Lists of concepts by kind, with bars on one scale; bars that could not be seen are left out. */
  bars(lists) {
    const most = Math.max(...lists.flatMap(([, items]) => items.map(({ value }) => Math.abs(value))), 1e-9);
    const section = ([kind, items]) => {
      const listed = items.filter(({ value }) => Math.abs(value) >= LEAST * most).slice(0, LISTED);
      const bars = listed.map(({ concept, value, text, title }) => this.bar(concept, kind, value / most, text, title));
      return h(
        "section",
        h("h3", KINDS[kind]),
        listed.length > 0 ? h("ul.bars", bars) : h("p.hint", "None to speak of."),
      );
    };
    return lists.map(section);
  }

  /** A concept with a bar from -1 to 1. */
  bar(concept, kind, share, value, title) {
    const act = (direction, sign) => {
      const title = `${direction === "amplify" ? "Amplify" : "Suppress"} ${concept.name} and run again`;
      const onclick = () => this.steer(concept, direction);
      return h("button", { class: `act ${direction}`, title, "aria-label": title, onclick }, sign);
    };
    return h(
      "li",
      h(
        "button.name",
        { dir: "auto", title: `About ${concept.name}`, onclick: () => this.concept(concept) },
        concept.name,
      ),
      h("span.value", { title }, value),
      track(kind, share),
      h("span.acts", act("amplify", "+"), act("suppress", "−")),
    );
  }

  chunk(lane, index) {
    const { concepts, epsilon_signed, epsilon_abs, text, start, end } = lane.chunks[index];
    const items = (kind) =>
      concepts
        .filter(({ head }) => head === kind)
        .map(({ score, ...concept }) => ({ concept, value: score, text: signed(score, 3) }));
    this.show(
      h("header", h("h2", `Chunk ${index + 1}`), h("p.facts", `${lane.title} · positions ${start} to ${end - 1}`)),
      h("p.excerpt", { dir: "auto" }, text.trim()),
      h("p.hint", "Mean share of each concept in the logits of the chunk’s tokens."),
      ...this.bars([
        ["known", items("known")],
        ["unknown", items("unknown")],
      ]),
      h("p.hint", `Epsilon ${signed(epsilon_signed, 3)}, without its sign ${epsilon_abs.toFixed(3)}.`),
    );
  }

  /** What a concept is and promotes; from here back to where one was. */
  async concept({ id, name }) {
    const back = this.shown && h("button.quiet.small", { onclick: () => this.select(this.shown) }, "← Back");
    const act = (direction, label) =>
      h("button", { class: direction, onclick: () => this.steer({ id, name }, direction) }, label);
    const about = h("p", "…");
    const promoted = h("ul.bars");
    this.show(
      back,
      h("header", h("h2", { dir: "auto" }, name)),
      about,
      h("div.actions", act("amplify", "Amplify and run"), act("suppress", "Suppress and run")),
      h("section", h("h3", "Tokens it promotes"), promoted),
    );
    this.root.querySelector("button").focus();
    try {
      const { concept, tokens } = await getJson(`/concepts/${id}/tokens?k=12`);
      const group = concept.group ? ["Group ", h("bdi", concept.group.name), ". "] : [];
      const steerable = concept.flags.steerable ? "" : " Not marked as steerable.";
      const which = `${concept.head === "known" ? "Known" : "Unknown"} concept ${concept.index}.${steerable}`;
      about.replaceChildren(h("bdi", concept.description || "No description."), " ", ...group, which);
      const most = Math.max(...tokens.map(({ alignment }) => Math.abs(alignment)), 1e-9);
      promoted.replaceChildren(
        ...tokens.map(({ text, alignment }) =>
          h(
            "li.rest",
            h("bdi.name.sample", visible(text)),
            h("span.value", signed(alignment)),
            track(concept.head, alignment / most),
          ),
        ),
      );
    } catch (refusal) {
      about.textContent = "";
      this.refuse(refusal);
    }
  }

  /** Attribution to the tokens that the model saw: on demand, because it costs many passes. */
  inputs(lane, position) {
    const section = h("section.inputs", h("h3", "What it read"));
    if (!lane.result?.trace || lane.steering === undefined) {
      const why = lane.result ? "Not available for this lane." : "Available when the text is complete.";
      section.append(h("p.hint", why));
      return section;
    }
    const out = h("div.heat", { "aria-live": "polite" });
    const option = ([value, label]) => h("option", { value, selected: value === this.method }, label);
    const method = h(
      "select",
      { "aria-label": "Method of input attribution", onchange: () => (this.method = method.value) },
      Object.entries(METHODS).map(option),
    );
    const ask = async (whole) => {
      out.replaceChildren(h("p.hint", "Asking the model…"));
      try {
        const answer = await this.attribute(lane, whole ? null : [position]);
        out.replaceChildren(...(await heat(lane, position, whole, answer)));
      } catch (refusal) {
        out.replaceChildren();
        this.refuse(refusal);
      }
    };
    const button = (label, whole) => h("button", { onclick: () => ask(whole) }, label);
    section.append(h("div.actions", button("This token", false), button("Whole text", true), method), out);
    section.ask = ask;
    return section;
  }

  attribute({ result, steering }, positions) {
    const inputs = { method: this.method, positions };
    return postJson("/attribute", { trace: result.trace, steering, inputs, concepts: null, chunks: false });
  }

  /** As if the button for the whole text had been pressed. */
  async askForInputs() {
    await this.root.querySelector(".inputs")?.ask?.(true);
  }
}
