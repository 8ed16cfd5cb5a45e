// Why a token, what is in a chunk, what a concept does: the panel beside the text.

import { getJson, postJson } from "./api.js";
import { gap, h, percent, signed, visible } from "./dom.js";

/** Concepts of each kind that are listed; the sums are over all of them. */
const LISTED = 6;
/** Shortest bar, as a share of the longest. */
const LEAST = 0.02;
const KINDS = { known: "Known concepts", unknown: "Unknown concepts" };
const METHODS = { integrated_gradients: "Integrated gradients", input_x_gradient: "Input × gradient", occlusion: "Occlusion" };

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
    this.show(h("div", { class: "hint-box" }, h("h2", {}, "Why this token?"), h("p", {}, hint)));
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
      lane.mark(null, lane.chunks[chunk]);
      this.chunk(lane, chunk);
    }
  }

  token(lane, position) {
    const commit = lane.commits.get(position);
    const why = lane.tokens.get(position);
    const facts = [lane.title, `position ${position}`, `step ${commit.step + 1}`, `${percent(commit.confidence)} sure`];
    const head = h("header", {}, h("h2", {}, h("span", { class: "sample" }, visible(commit.text))), h("p", { class: "facts" }, facts.join(" · ")));
    const missing = h("p", { class: "hint" }, "This run was not explained. Turn on “Explain every token by concepts” and run again.");
    this.show(head, why ? this.split(why) : missing, why && this.concepts(why), this.inputs(lane, position));
  }

  /** The three parts of the logit. */
  split({ fractions, known_total, unknown_total, epsilon, target_logit }) {
    const parts = [["known", "Known", known_total], ["unknown", "Unknown", unknown_total], ["epsilon", "Epsilon", epsilon]];
    const bar = parts.map(([kind]) => h("span", { class: kind, "--share": fractions[kind] }));
    const row = ([kind, label, logits]) =>
      h("tr", {}, h("th", { scope: "row" }, h("i", { class: `dot ${kind}` }), label), h("td", {}, percent(fractions[kind])), h("td", {}, signed(logits)));
    return h("section", { class: "split", "aria-label": "Parts of the logit" },
      h("div", { class: "stack", "aria-hidden": "true" }, bar),
      h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Part"), h("th", { scope: "col" }, "Share"), h("th", { scope: "col" }, "Logits"))),
        h("tbody", {}, parts.map(row)),
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "Together"), h("td", {}), h("td", {}, signed(target_logit))))));
  }

  concepts({ known, unknown }) {
    const item = ({ contribution, weight, ...concept }) =>
      ({ concept, value: contribution, text: signed(contribution), title: `weight ${weight.toFixed(2)}` });
    return h("div", { class: "why" }, this.bars([["known", known.map(item)], ["unknown", unknown.map(item)]]));
  }

  /** Lists of concepts by kind, with bars on one scale; bars that could not be seen are left out. */
  bars(lists) {
    const most = Math.max(...lists.flatMap(([, items]) => items.map(({ value }) => Math.abs(value))), 1e-9);
    const section = ([kind, items]) => {
      const listed = items.filter(({ value }) => Math.abs(value) >= LEAST * most).slice(0, LISTED);
      const bars = listed.map(({ concept, value, text, title }) => this.bar(concept, kind, value / most, text, title));
      return h("section", {}, h("h3", {}, KINDS[kind]), listed.length > 0 ? h("ul", { class: "bars" }, bars) : h("p", { class: "hint" }, "None to speak of."));
    };
    return lists.map(section);
  }

  /** A concept with a bar from -1 to 1. */
  bar(concept, kind, share, value, title) {
    const act = (direction, sign) => h("button", {
      type: "button", class: `act ${direction}`, title: `${direction === "amplify" ? "Amplify" : "Suppress"} ${concept.name} and run again`,
      "aria-label": `${direction === "amplify" ? "Amplify" : "Suppress"} ${concept.name} and run again`, onclick: () => this.steer(concept, direction),
    }, sign);
    return h("li", {},
      h("button", { type: "button", class: "name", title: `About ${concept.name}`, onclick: () => this.concept(concept) }, concept.name),
      h("span", { class: "value", title }, value),
      h("span", { class: `track ${share < 0 ? "negative" : ""}`, "aria-hidden": "true" }, h("span", { class: kind, "--share": Math.abs(share) })),
      h("span", { class: "acts" }, act("amplify", "+"), act("suppress", "−")));
  }

  chunk(lane, index) {
    const { concepts, epsilon_signed, epsilon_abs, text, start, end } = lane.chunks[index];
    const items = (kind) => concepts.filter(({ head }) => head === kind).map(({ score, ...concept }) => ({ concept, value: score, text: signed(score, 3) }));
    this.show(
      h("header", {}, h("h2", {}, `Chunk ${index + 1}`), h("p", { class: "facts" }, `${lane.title} · positions ${start} to ${end - 1}`)),
      h("p", { class: "excerpt", tabindex: 0 }, text.trim()),
      h("p", { class: "hint" }, "Mean share of each concept in the logits of the chunk’s tokens."),
      ...this.bars([["known", items("known")], ["unknown", items("unknown")]]),
      h("p", { class: "hint" }, `Epsilon ${signed(epsilon_signed, 3)}, without its sign ${epsilon_abs.toFixed(3)}.`));
  }

  /** What a concept is and promotes; from here back to where one was. */
  async concept({ id, name }) {
    const back = this.shown && h("button", { type: "button", class: "quiet small", onclick: () => this.select(this.shown) }, "← Back");
    const act = (direction, label) => h("button", { type: "button", class: direction, onclick: () => this.steer({ id, name }, direction) }, label);
    const about = h("p", {}, "…");
    const promoted = h("ul", { class: "bars" });
    this.show(back, h("header", {}, h("h2", {}, name)), about,
      h("div", { class: "actions" }, act("amplify", "Amplify and run"), act("suppress", "Suppress and run")),
      h("section", {}, h("h3", {}, "Tokens it promotes"), promoted));
    this.root.querySelector("button").focus();
    try {
      const { concept, tokens } = await getJson(`/concepts/${id}/tokens?k=12`);
      const group = concept.group ? `Group ${concept.group.name}. ` : "";
      const steerable = concept.flags.steerable ? "" : " Not marked as steerable.";
      about.textContent = `${concept.description || "No description."} ${group}${concept.head === "known" ? "Known" : "Unknown"} concept ${concept.index}.${steerable}`;
      const most = Math.max(...tokens.map(({ alignment }) => Math.abs(alignment)), 1e-9);
      promoted.replaceChildren(...tokens.map(({ text, alignment }) =>
        h("li", { class: "rest" }, h("span", { class: "name sample" }, visible(text)), h("span", { class: "value" }, signed(alignment)),
          h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: concept.head, "--share": Math.abs(alignment) / most })))));
    } catch (refusal) {
      about.textContent = "";
      this.refuse(refusal);
    }
  }

  /** Attribution to the tokens that the model saw: on demand, because it costs many passes. */
  inputs(lane, position) {
    const section = h("section", { class: "inputs" }, h("h3", {}, "What it read"));
    if (!lane.result?.trace || lane.steering === undefined) {
      const why = lane.result ? "Not available for this lane." : "Available when the text is complete.";
      section.append(h("p", { class: "hint" }, why));
      return section;
    }
    const out = h("div", { class: "heat", "aria-live": "polite" });
    const option = ([value, label]) => h("option", { value, selected: value === this.method }, label);
    const method = h("select", { "aria-label": "Method of input attribution", onchange: () => (this.method = method.value) }, Object.entries(METHODS).map(option));
    const ask = async (whole) => {
      out.replaceChildren(h("p", { class: "hint" }, "Asking the model…"));
      try {
        out.replaceChildren(...heat(lane, position, whole, await this.attribute(lane, whole ? null : [position])));
      } catch (refusal) {
        out.replaceChildren();
        this.refuse(refusal);
      }
    };
    const button = (label, whole) => h("button", { type: "button", onclick: () => ask(whole) }, label);
    section.append(h("div", { class: "actions" }, button("For this token", false), button("For the whole text", true), method), out);
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

/** The heat map: of one token in logits, with what was visible when it was committed; of all as mean shares of the prompt. */
function heat(lane, position, whole, { inputs }) {
  const texts = new Map(inputs.prompt_ranking.map(({ position, text }) => [position, text]));
  const step = lane.commits.get(position).step;
  const visibleAt = (at) => texts.has(at) || lane.commits.get(at)?.step < step;
  const ranked = new Map(inputs.prompt_ranking.map(({ position, score }) => [position, score]));
  const target = inputs.targets[0];
  const length = whole ? texts.size : (target?.scores.length ?? 0);
  const score = (at) => (whole ? ranked.get(at) : target.scores[at]) ?? 0;
  const scores = Array.from({ length }, (_, at) => score(at));
  const most = Math.max(...scores.map(Math.abs), 1e-9);
  const unit = whole ? "of its attribution" : "logits";
  const textAt = (at) => texts.get(at) ?? lane.commits.get(at).text;
  const cell = (value, at) => {
    if (!whole && at === position) return [gap(textAt(at)), h("b", { class: "target" }, visible(textAt(at)))];
    if (!whole && !visibleAt(at)) return [" ", h("span", { class: "masked", title: "masked then" })];
    const sign = value < 0 ? "against" : "for";
    return [gap(textAt(at)), h("span", { class: sign, "--share": Math.abs(value) / most, title: `${signed(value)} ${unit}` }, visible(textAt(at)))];
  };
  const top = scores.map((value, at) => [value, at]).sort(([a], [b]) => b - a)[0];
  const note = whole
    ? "Mean share of each prompt token in the attribution of all generated tokens."
    : `What each visible token did for the logit, step ${step + 1}. Sum ${signed(target.sum)} of ${signed(target.logit_delta)}.`;
  return [
    h("p", { class: "tokens" }, scores.flatMap(cell)),
    h("p", { class: "legend" }, h("span", { class: "against", "--share": 1 }, `−${most.toFixed(2)}`), h("span", {}, "0"), h("span", { class: "for", "--share": 1 }, `+${most.toFixed(2)}`)),
    h("p", { class: "hint" }, note, top && top[0] > 0 ? ` Most: “${visible(textAt(top[1]))}”.` : ""),
  ];
}
