// Concepts in the request: the search that adds them, and the chips that hold their strength.

import { getJson } from "./api.js";
import { byId, h } from "./dom.js";
import { STRENGTH, chipOf } from "./request.js";

/** Matches that are shown. */
const LIMIT = 30;
/** Typing faster than this asks once. */
const PAUSE_MS = 120;

/** The chips of a request. */
export class Chips {
  constructor(changed) {
    this.list = byId("chips");
    this.items = [];
    this.changed = changed;
  }

  set(items) {
    this.items = items.map(chipOf);
    this.draw();
  }

  /** A concept is in the list once: choosing it again turns it round. */
  add(concept, direction) {
    this.items = this.items.filter(({ id }) => id !== concept.id);
    this.items.push(chipOf({ ...concept, direction }));
    this.draw();
    this.changed();
  }

  draw() {
    this.list.replaceChildren(...this.items.map((chip) => this.chip(chip)));
    this.list.hidden = this.items.length === 0;
  }

  chip(chip) {
    const label = () => (chip.direction === "amplify" ? "Amplify" : "Suppress");
    const output = h("output", chip.strength.toFixed(1));
    const strength = h("input", {
      type: "range",
      min: 0,
      max: STRENGTH[chip.direction].most,
      step: 0.5,
      value: chip.strength,
      "aria-label": `Strength of ${chip.name}`,
      oninput: () => {
        chip.strength = Number(strength.value);
        output.textContent = chip.strength.toFixed(1);
        this.changed();
      },
    });
    const turn = () => {
      const direction = chip.direction === "amplify" ? "suppress" : "amplify";
      Object.assign(chip, chipOf({ ...chip, direction, strength: undefined }));
      this.draw();
      this.changed();
      this.list.children[this.items.indexOf(chip)].querySelector(".turn").focus();
    };
    const remove = () => {
      this.items.splice(this.items.indexOf(chip), 1);
      this.draw();
      this.changed();
      byId("search").focus();
    };
    return h(
      "li",
      { class: `chip ${chip.direction}` },
      h("button.turn", { onclick: turn, title: "Turn round" }, label()),
      h("span.chip-name", { dir: "auto" }, chip.name),
      h("button.remove", { onclick: remove, "aria-label": `Remove ${chip.name}` }, "×"),
      strength,
      output,
    );
  }
}

/** A text field with a list of concepts below it, as the ARIA pattern "combobox" has it. */
export class Search {
  constructor(chosen) {
    this.input = byId("search");
    this.list = byId("found");
    this.none = byId("found-none");
    this.chosen = chosen;
    this.found = [];
    this.at = -1;
    this.input.addEventListener("input", () => this.later());
    this.input.addEventListener("click", () => this.later(0));
    this.input.addEventListener("blur", () => this.close());
    this.input.addEventListener("keydown", (event) => this.key(event));
    // Before the field loses the focus, which would close the list.
    this.list.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const option = event.target.closest("[role=option]");
      if (option && event.button === 0) this.choose([...this.list.children].indexOf(option));
    });
  }

  later(pause = PAUSE_MS) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), pause);
  }

  async ask() {
    const text = this.input.value.trim();
    this.asked?.abort();
    const { signal } = (this.asked = new AbortController());
    try {
      const found = await search(text, signal);
      // The field may have been left, or more typed, while the server answered.
      if (!signal.aborted) this.open(found, text);
    } catch (error) {
      if (!signal.aborted) this.open([], text, error.message);
    }
  }

  open(found, text, trouble) {
    this.found = found;
    this.at = -1;
    const option = ({ name, description }, i) =>
      h(
        "li",
        { role: "option", id: `found-${i}`, "aria-selected": "false" },
        h("strong", { dir: "auto" }, name),
        description && h("span", { dir: "auto" }, description),
      );
    this.list.replaceChildren(...found.map(option));
    this.list.hidden = found.length === 0;
    this.input.setAttribute("aria-expanded", String(found.length > 0));
    this.none.hidden = found.length > 0;
    const nothing = text
      ? ["No concept is named or described by “", h("bdi", text), "”."]
      : ["This model has no concepts to steer."];
    this.none.replaceChildren(...(trouble ? [trouble] : nothing));
    this.mark(found.length > 0 && text ? 0 : -1);
  }

  close() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.list.hidden = this.none.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.mark(-1);
  }

  mark(at) {
    this.at = at;
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === at)));
    if (at < 0) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", `found-${at}`);
    this.list.children[at]?.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const last = this.found.length - 1;
    if (event.key === "ArrowDown" && this.list.hidden) this.later(0);
    else if (event.key === "ArrowDown") this.mark(this.at >= last ? 0 : this.at + 1);
    else if (event.key === "ArrowUp" && !this.list.hidden) this.mark(this.at <= 0 ? last : this.at - 1);
    else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) this.choose(this.at);
    else if (event.key === "Escape" && !this.list.hidden) this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  choose(at) {
    const concept = this.found[at];
    if (!concept || this.list.hidden) return;
    this.input.value = "";
    this.close();
    this.chosen(concept);
  }
}

/** Every steerable known concept, if they are few: then parts of words are found too. */
let listing;

/** Concepts for what is typed: best match first; with nothing typed, the first of the list. */
export async function search(text, signal) {
  const list = async (query) => getJson(`/concepts?head=known&steerable=true&limit=${LIMIT}${query}`, signal);
  if (text === "") return (await list("")).items;
  const { items } = await list(`&q=${encodeURIComponent(text)}`);
  if (items.length > 0) return items;
  listing ??= await getJson("/concepts?head=known&steerable=true&limit=1000");
  if (listing.total > listing.items.length) return [];
  const part = text.toLowerCase();
  return listing.items
    .filter(({ name, description }) => `${name} ${description}`.toLowerCase().includes(part))
    .slice(0, LIMIT);
}
