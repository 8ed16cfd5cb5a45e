// The run that is shown, from its first event to its end: its variants, and the slider over their steps.

import { Refusal, postEvents } from "./api.js";
import { batched, byId } from "./dom.js";
import { effectOf } from "./effect.js";
import { Run } from "./run.js";
import { download } from "./share.js";

/** A replay takes about this long, but no step is shorter or longer than these. */
const REPLAY_MS = 6000;
const REPLAY_STEP_MS = [40, 160];
/** A stream faster than this many steps a second is shown at this pace, so that the eye can follow... */
const PACE = 16;
/** ...but no more than about this many seconds late. */
const LATE_S = 1.2;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export class Results {
  /** `select` is told what is clicked in a variant. */
  constructor(select) {
    this.select = select;
    /** The run that is shown; one that has no event yet is not. */
    this.shown = null;
    /** The run whose first event is waited for. */
    this.awaited = null;
    /** Questions that are open before a run can begin. */
    this.questions = 0;
    this.draw = batched(() => this.drawNow());
    this.slider = byId("step");
    this.slider.addEventListener("input", () => {
      this.stopReplay();
      this.step = Math.min(Number(this.slider.value), this.shown.reached());
      // Back at the end, the view follows the stream again.
      this.following = this.step >= this.shown.reached();
      this.progress = this.step;
      this.draw();
    });
    byId("replay").addEventListener("click", () => (this.timer ? this.stopReplay() : this.replay()));
    byId("export").addEventListener("click", () => download("steerling.json", this.shown.export()));
    for (const view of document.getElementsByName("view")) {
      view.addEventListener("change", () =>
        byId("lanes").classList.toggle("as-grid", document.querySelector("[name=view]:checked").value === "grid"),
      );
    }
  }

  /**
   * Runs a request until it ends, breaks off, or `signal` stops it; what is there stays. What was shown before stays
   * until the first event, of which `begun` is told. Gives the state in which the run ended; throws what the server
   * answers instead of events, and the error that ends a stream.
   */
  async run(request, signal, begun) {
    const run = new Run(request, this.select, this.draw);
    this.awaited = run;
    this.drawNow();
    try {
      for await (const [name, data] of postEvents(request.path, { ...request.body, stream: true }, signal)) {
        // A run that another one has replaced must not write over it.
        if (signal.aborted) break;
        run.event(name, data);
        if (this.awaited === run) {
          this.show(run);
          begun();
        }
      }
      run.end(signal.aborted ? "stopped" : "done");
    } catch (error) {
      const lost = error instanceof Refusal && error.error.code === "connection_lost";
      run.end(signal.aborted ? "stopped" : lost ? "lost" : "failed");
      // A loss is told beside the text that it cut.
      if (!signal.aborted && !(lost && this.shown === run)) throw error;
    } finally {
      if (this.awaited === run) this.awaited = null;
      this.drawNow();
    }
    return run.state;
  }

  /** What has to be known before a run begins; until then the page waits. */
  async before(question) {
    this.questions += 1;
    this.drawNow();
    try {
      return await question;
    } finally {
      this.questions -= 1;
      this.drawNow();
    }
  }

  /** Whether another run is to take the place of what is shown. */
  waiting() {
    return this.awaited !== null || this.questions > 0;
  }

  /** Puts a run in the place of the one before. */
  show(run) {
    this.stopReplay();
    this.awaited = null;
    this.shown = run;
    this.following = true;
    this.step = this.progress = 0;
  }

  drawNow() {
    const waiting = this.waiting();
    byId("status").textContent = waiting ? "Waiting for the first step…" : (this.shown?.status() ?? "");
    byId("status").dataset.state = waiting ? "waiting" : (this.shown?.state ?? "");
    byId("empty").hidden = this.shown !== null || waiting;
    if (this.shown) this.drawRun(this.shown);
    else this.busy(waiting);
  }

  drawRun(run) {
    const [reached, last, running] = [run.reached(), run.last(), run.state === "running"];
    if (this.following) this.follow(reached);
    const lanes = run.inOrder();
    this.arrange(lanes.map((lane) => lane.element));
    const settled = !running && this.step === reached;
    for (const lane of lanes) {
      lane.draw(this.step, settled);
      if (settled) lane.reachable();
    }
    if (run.summary !== this.summary) {
      this.summary = run.summary;
      byId("effect").replaceChildren(...(run.summary ? effectOf(run.summary) : []));
      byId("effect").hidden = !run.summary;
    }
    byId("toolbar").hidden = byId("sure").hidden = false;
    byId("export").disabled = byId("replay").disabled = running;
    this.slider.max = last;
    this.slider.value = this.step;
    byId("step-value").textContent = `${this.step} / ${last}`;
    this.busy(this.waiting() || run.open() || (this.following && this.step < reached));
  }

  arrange(elements) {
    const lanes = byId("lanes");
    if (elements.length === lanes.children.length && elements.every((element, i) => element === lanes.children[i]))
      return;
    lanes.replaceChildren(...elements);
    lanes.classList.toggle("several", elements.length > 1);
  }

  /** Whether the variants have yet to change by themselves, for a stream may end before the view has caught up with it. */
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
    const last = this.shown.reached();
    const pause = Math.min(longest, Math.max(shortest, REPLAY_MS / Math.max(last, 1)));
    if (this.step >= last) this.step = 0;
    this.following = false;
    byId("replay").textContent = "Pause";
    this.timer = setInterval(() => {
      this.step += 1;
      if (this.step >= last) this.stopReplay();
      this.draw();
    }, pause);
    this.draw();
  }

  stopReplay() {
    clearInterval(this.timer);
    this.timer = null;
    byId("replay").textContent = "Replay";
  }
}
