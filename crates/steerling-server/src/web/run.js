// One request being answered: its variants, how far they have come, and how it ended.

import { Lane } from "./lane.js";

/** The unsteered text stands where one starts to read. */
const ORDER = ["default", "steered"];
/** Ends that are not the end of the text. */
const CUT = { stopped: "Stopped", lost: "Connection lost", failed: "Ended by the server" };

export class Run {
  /** `select` is told what is clicked in a variant, `changed` that there is something to draw. */
  constructor(request, select, changed) {
    this.request = request;
    this.select = select;
    this.changed = changed;
    this.lanes = new Map();
    this.summary = null;
    /** `running`, `done`, or a key of `CUT`. */
    this.state = "running";
    this.started = performance.now();
  }

  /** Takes in an event of the stream. */
  event(name, data) {
    if (name === "summary") this.summary = data;
    else this.lane(data.lane ?? null).event(name, data);
    this.changed();
  }

  lane(name) {
    if (!this.lanes.has(name)) {
      const lane = new Lane(name, this.request.body, this);
      // What input attribution must repeat; unknown for controls and sweeps.
      const { steering = null } = this.request.body;
      lane.steering = { default: null, steered: steering, null: steering }[name];
      this.lanes.set(name, lane);
    }
    return this.lanes.get(name);
  }

  end(state) {
    this.state = state;
    this.seconds = (performance.now() - this.started) / 1000;
    for (const lane of this.lanes.values()) if (!lane.result) lane.cut();
  }

  /** The variants in the order in which they are shown. */
  inOrder() {
    const rank = ({ name }) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
    return [...this.lanes.values()].sort((a, b) => rank(a) - rank(b));
  }

  /** Steps that have been taken in any variant. */
  reached() {
    return Math.max(0, ...this.inOrder().map((lane) => lane.reached));
  }

  /** Steps there will be or would have been; when the texts are complete, those there were. */
  last() {
    return this.state === "done" ? this.reached() : Math.max(0, ...this.inOrder().map((lane) => lane.steps()));
  }

  /** Whether the variants have yet to change by themselves. */
  open() {
    return this.state === "running" || this.inOrder().some((lane) => lane.joining);
  }

  /** The seed, given or drawn; null before the first event. */
  seed() {
    return this.inOrder()[0]?.start?.seed ?? null;
  }

  /** One sentence on how far it is, or how it ended. */
  status() {
    if (this.state === "running") return "Writing…";
    if (this.state === "done") return `Done in ${this.seconds.toFixed(2)} s. Seed ${this.seed()}.${this.warnings()}`;
    const what = this.inOrder().every((lane) => lane.result) ? "comparison" : "text";
    return `${CUT[this.state]} after step ${this.reached()} of ${this.last()}: the ${what} is incomplete`;
  }

  warnings() {
    const all = this.inOrder().flatMap((lane) => lane.result?.warnings ?? []);
    return [...new Set(all)].map((warning) => ` Note: ${warning}.`).join("");
  }

  /** Everything, for a file. */
  export() {
    const { path, body } = this.request;
    return {
      endpoint: path,
      request: { ...body, seed: this.seed() },
      complete: this.state === "done",
      results: this.inOrder().map(({ name, result, commits }) => ({
        lane: name,
        result: result ?? { complete: false, commits: [...commits.values()] },
      })),
      summary: this.summary,
    };
  }
}
