// A run from its first event to its end: the lanes, the slider over their steps, what steering did, the file to keep.

import { postEvents } from "./api.js";
import { batched, byId, h, percent, signed, track, visible } from "./dom.js";
import { Lane } from "./lane.js";
import { download } from "./share.js";

/** A replay takes about this long, but no step is shorter or longer than these. */
const REPLAY_MS = 6000;
const REPLAY_STEP_MS = [40, 160];
/** A stream faster than this many steps a second is shown at this pace, so that the eye can follow... */
const PACE = 16;
/** ...but no more than about this many seconds late. */
const LATE_S = 1.2;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
/** The unsteered text stands where one starts to read. */
const ORDER = ["default", "steered"];

export class Results {
  /** `select` is told what is clicked in a lane. */
  constructor(select) {
    this.select = select;
    this.lanes = new Map();
    this.draw = batched(() => this.drawNow());
    this.slider = byId("step");
    this.slider.addEventListener("input", () => {
      this.stopReplay();
      this.step = Number(this.slider.value);
      // Back at the end, the view follows the stream again.
      this.following = this.step >= this.reached();
      this.progress = this.step;
      this.draw();
    });
    byId("replay").addEventListener("click", () => (this.timer ? this.stopReplay() : this.replay()));
    byId("export").addEventListener("click", () => this.export());
    for (const view of document.getElementsByName("view")) {
      view.addEventListener("change", () =>
        byId("lanes").classList.toggle("as-grid", document.querySelector("[name=view]:checked").value === "grid"),
      );
    }
  }

  /** Runs a request until it ends or `signal` stops it; what is there stays. Throws a refusal. */
  async run({ path, body }, signal) {
    this.stopReplay();
    this.sent = { path, body };
    this.lanes.clear();
    this.summary = null;
    this.following = true;
    this.step = this.progress = 0;
    this.state = "running";
    byId("lanes").replaceChildren();
    this.busy(true);
    byId("effect").hidden = true;
    byId("empty").hidden = true;
    byId("status").textContent = "Waiting for the first step…";
    // A run that another one has replaced must not write over it.
    const replaced = () => signal !== this.signal;
    this.signal = signal;
    const started = performance.now();
    try {
      for await (const [name, data] of postEvents(path, { ...body, stream: true }, signal)) {
        if (replaced()) return;
        this.event(name, data);
      }
      this.state = "done";
      byId("status").textContent =
        `Done in ${((performance.now() - started) / 1000).toFixed(2)} s. Seed ${this.seed()}.${this.warnings()}`;
    } catch (error) {
      if (replaced()) return;
      this.state = error.name === "AbortError" ? "stopped" : "failed";
      byId("status").textContent = this.state === "stopped" ? `Stopped after step ${this.reached()}.` : "";
      byId("empty").hidden = this.lanes.size > 0;
      if (this.state === "failed") throw error;
    } finally {
      this.draw();
    }
  }

  event(name, data) {
    if (name === "summary") {
      this.summary = data;
      this.drawEffect(data);
      return;
    }
    const key = data.lane ?? null;
    if (!this.lanes.has(key)) this.add(key);
    this.lanes.get(key).event(name, data);
    if (name === "start") byId("status").textContent = "Writing…";
    this.draw();
  }

  add(name) {
    const lane = new Lane(name, this.sent.body, this.select);
    // What input attribution must repeat; unknown for controls and sweeps.
    const { steering = null } = this.sent.body;
    lane.steering = { default: null, steered: steering, null: steering }[name];
    this.lanes.set(name, lane);
    const rank = ({ name }) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
    const sorted = [...this.lanes.values()].sort((a, b) => rank(a) - rank(b));
    byId("lanes").replaceChildren(...sorted.map((lane) => lane.element));
    byId("lanes").classList.toggle("several", sorted.length > 1);
  }

  /** Steps that have been taken in any lane. */
  reached() {
    return Math.max(0, ...[...this.lanes.values()].map((lane) => lane.reached));
  }

  /** Steps there will be, or there were. */
  last() {
    return this.state === "running"
      ? Math.max(0, ...[...this.lanes.values()].map((lane) => lane.steps()))
      : this.reached();
  }

  seed() {
    return [...this.lanes.values()][0]?.start?.seed ?? "";
  }

  warnings() {
    const all = [...this.lanes.values()].flatMap((lane) => lane.result?.warnings ?? []);
    return [...new Set(all)].map((warning) => ` Note: ${warning}.`).join("");
  }

  drawNow() {
    const last = this.last();
    if (this.following) this.follow(this.reached());
    for (const lane of this.lanes.values()) {
      lane.draw(this.step, last);
      if (this.step === last) lane.reachable();
    }
    byId("toolbar").hidden = byId("sure").hidden = this.lanes.size === 0;
    byId("export").disabled = byId("replay").disabled = this.state === "running";
    this.slider.max = last;
    this.slider.value = this.step;
    byId("step-value").textContent = `${this.step} / ${last}`;
    this.busy(this.state === "running" || (this.following && this.step < last));
  }

  /** Whether the lanes have yet to change by themselves, for a stream may end before the view has caught up with it. */
  busy(value) {
    byId("lanes").setAttribute("aria-busy", value);
  }

  /** Shows steps up to `target`, now or over the next frames. */
  follow(target) {
    const now = performance.now();
    const seconds = Math.min((now - (this.drawnAt ?? now)) / 1000, 0.1);
    this.drawnAt = now;
    this.progress = Math.min(
      target,
      STILL.matches ? target : this.progress + seconds * Math.max(PACE, (target - this.progress) / LATE_S),
    );
    this.step = Math.floor(this.progress);
    if (this.step < target) this.draw();
  }

  replay() {
    const [shortest, longest] = REPLAY_STEP_MS;
    const pause = Math.min(longest, Math.max(shortest, REPLAY_MS / Math.max(this.last(), 1)));
    if (this.step >= this.reached()) this.step = 0;
    this.following = false;
    byId("replay").textContent = "Pause";
    this.timer = setInterval(() => {
      this.step += 1;
      if (this.step >= this.reached()) this.stopReplay();
      this.draw();
    }, pause);
    this.draw();
  }

  stopReplay() {
    clearInterval(this.timer);
    this.timer = null;
    byId("replay").textContent = "Replay";
  }

  drawEffect({ resolved, effect }) {
    const { concept_weight_mean, top_token_rate, distinct_2, changed_fraction } = effect;
    const known = (value) => typeof value === "number";
    const pair = (label, hint, { default: without, steered }) => {
      const most = Math.max(without ?? 0, steered ?? 0, 1e-9);
      const bar = (kind, value) =>
        known(value) && h("div", { class: kind }, track(kind, value / most), h("span.value", percent(value)));
      return (
        known(steered) &&
        h("div.measure", h("h3", { title: hint }, label), bar("default", without), bar("steered", steered))
      );
    };
    const direction = ({ concepts, top_tokens, alpha, peak }) =>
      h(
        "p",
        h("strong", concepts.map(({ name }) => name).join(" + ")),
        h("span.hint", ` up to ${signed(alpha * peak, 1)} logits: `),
        top_tokens.slice(0, 8).flatMap(({ text }) => [h("span.sample", visible(text)), " "]),
      );
    byId("effect").replaceChildren(
      h("h2", "What steering did"),
      h(
        "div.measures",
        pair(
          "Concepts’ weight",
          "Mean weight that the unsteered model gives the named concepts over the text",
          concept_weight_mean,
        ),
        pair("Promoted tokens", "Share of tokens among the 50 that a direction promotes most", top_token_rate),
        pair(
          "Variety",
          "Different pairs of neighbouring tokens, as a share of all pairs: low where text repeats itself",
          distinct_2,
        ),
        known(changed_fraction) &&
          h("div.measure", h("h3", "Positions that differ"), h("p.figure", percent(changed_fraction))),
      ),
      ...resolved.injections.map(direction),
      h("p.hint", h("span.key.default", "unsteered"), h("span.key.steered", "steered")),
    );
    byId("effect").hidden = false;
  }

  export() {
    const result = ({ name, result, commits }) => ({
      lane: name,
      result: result ?? { stopped: true, commits: [...commits.values()] },
    });
    const lanes = [...this.lanes.values()].map(result);
    download("steerling.json", {
      endpoint: this.sent.path,
      request: this.sent.body,
      results: lanes,
      summary: this.summary,
    });
  }
}
