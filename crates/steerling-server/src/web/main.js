// Puts the page together: what the server is, the request, running it.

import { Refusal, getJson } from "./api.js";
import { search } from "./chips.js";
import { consent, steerAnyway } from "./consent.js";
import { batched, byId, flash, h } from "./dom.js";
import { Form } from "./form.js";
import { Inspector } from "./inspector.js";
import { compose, fromFragment, normalize, toFragment } from "./request.js";
import { Results } from "./results.js";
import { copy, snippet } from "./share.js";

/** Concepts are looked up by a word, so that the same examples do for any catalogue. */
const EXAMPLES = [
  {
    label: "Pirates in space",
    prompt: "The neighbour moved the table.",
    seed: "3",
    max_new_tokens: "32",
    amplify: ["pirate", "space"],
  },
  { label: "Watch it write", prompt: "The chef stirred the", max_new_tokens: "48" },
  {
    label: "Many tokens at once",
    prompt: "Road closed:",
    max_new_tokens: "64",
    extra: '{"decoding": {"method": "threshold", "threshold": 0.9}}',
  },
  { label: "Anything but cooking", prompt: "The chef stirred the soup.", max_new_tokens: "32", suppress: ["cooking"] },
  { label: "What did it read?", prompt: "The astronaut repaired the", max_new_tokens: "16", inputs: true },
];
/** How often a server that is loading its model is asked again. */
const POLL_MS = 1000;

const results = new Results((selected) => {
  if (selected.answer !== undefined) return form.reply(selected.answer);
  inspector.select(selected);
  reveal(byId("inspector"));
});
const inspector = new Inspector(byId("inspector"), {
  steer: async (concept, direction) => {
    const chip = { ...concept };
    if (!(await results.before(consent([chip])))) return;
    form.chips.add(chip, direction);
    run();
  },
  refuse: showError,
});
const form = new Form(batched(drawSnippet));
let running = null;
/** What "Run again" repeats. */
let again = null;

/** Runs what the form says, or a request. A second run stops the first. Says whether it came to its end. */
async function run(request) {
  hideError();
  try {
    if (!request && !(await results.before(form.consent()))) return false;
    request ??= compose(form.read());
  } catch (error) {
    return showError(error);
  }
  running?.abort();
  const controller = (running = new AbortController());
  const begun = () => {
    inspector.clear();
    drawSnippet();
  };
  const repeated = document.activeElement === byId("again");
  byId("stop").hidden = false;
  byId("run").hidden = byId("again").hidden = true;
  if (repeated) byId("stop").focus({ preventScroll: true });
  byId("result").classList.add("ran");
  reveal(byId("result"));
  let [state, error] = ["rejected", null];
  try {
    state = await results.run(request, controller.signal, begun);
  } catch (caught) {
    error = caught;
  }
  if (running !== controller) return false;
  const hadFocus = document.activeElement === byId("stop");
  running = null;
  byId("stop").hidden = true;
  byId("run").hidden = false;
  if (hadFocus) byId("run").focus();
  if (state === "lost" || (error instanceof Refusal && error.passing())) offerAgain(request);
  if (error?.error?.code === "not_steerable" && (await steerAnyway(error.message))) return run(forced(request));
  if (error) showError(error);
  return state === "done";
}

/** A request is repeated with the seed that it had, so that it gives the text that was begun. */
function offerAgain(request) {
  const seed = results.shown?.request === request ? results.shown.seed() : request.body.seed;
  again = { ...request, body: { ...request.body, seed } };
  byId("again").hidden = false;
}

const forced = ({ path, body }) => ({ path, body: { ...body, steering: { ...body.steering, force: true } } });

/** On a narrow screen what follows is below: brings it into view. */
function reveal(element) {
  if (matchMedia("(max-width: 760px)").matches) element.scrollIntoView({ block: "start", behavior: "auto" });
}

function showError(error) {
  if (error instanceof SyntaxError)
    error = new Refusal({ code: "invalid_json", message: `the other fields: ${error.message}`, param: "extra" });
  if (!(error instanceof Refusal)) throw error;
  const { code, message, param, request_id, details } = error.error;
  const facts = [
    ["Code", code],
    ["Status", error.status],
    ["Field", param],
    ["Request", request_id],
    ["Retry after", error.retryAfter && `${error.retryAfter} s`],
  ];
  const rows = facts
    .filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => h("div", h("dt", name), h("dd", String(value))));
  byId("error").replaceChildren(
    ...[
      h("p", { dir: "auto" }, h("strong", message)),
      h("dl", rows),
      details && h("pre", JSON.stringify(details, null, 2)),
      h("button.quiet", { onclick: hideError }, "Dismiss"),
    ].filter(Boolean),
  );
  byId("error").hidden = false;
  if (param) form.blame(param);
}

function hideError() {
  byId("error").hidden = true;
}

function drawSnippet() {
  const language = document.querySelector("[name=language]:checked").value;
  try {
    byId("snippet").textContent = snippet(language, compose(shared()));
  } catch (error) {
    byId("snippet").textContent = `The other fields are not a JSON object: ${error.message}`;
  }
}

/** What the form says; if that is what is shown, with the seed that was drawn for it, so that others get the same text. */
function shared() {
  const request = form.read();
  const seed = results.shown?.seed() ?? null;
  return seed !== null && isShown(request) ? { ...request, seed: String(seed) } : request;
}

/** Whether the result that is shown is of this request, which leaves the seed open. */
function isShown(request) {
  const text = ({ path, body }) => JSON.stringify([path, { ...body, seed: null }]);
  try {
    const composed = compose(request);
    return composed.body.seed == null && text(composed) === text(results.shown.request);
  } catch {
    return false;
  }
}

async function loadExample({ label, amplify = [], suppress = [], inputs, ...fields }, start = true) {
  hideError();
  const wanted = [...amplify.map((word) => ["amplify", word]), ...suppress.map((word) => ["suppress", word])];
  try {
    const found = await Promise.all(wanted.map(async ([direction, word]) => [direction, (await search(word))[0]]));
    const chips = found.filter(([, concept]) => concept).map(([direction, concept]) => ({ ...concept, direction }));
    form.write(normalize({ ...fields, chips }));
  } catch (error) {
    return showError(error);
  }
  if (!start) return;
  if ((await run()) && inputs) await explainFirst();
}

/** Selects the first token of the text, and asks what the prompt did for it. */
async function explainFirst() {
  const [lane] = results.shown.inOrder();
  inspector.select({ lane, token: lane.start.prompt_tokens });
  await inspector.askForInputs();
}

/** The request in the address, or an example. */
async function open(example) {
  const request = fromFragment(location.hash.slice(1));
  if (request) form.write(request);
  else await loadExample(example, false);
}

async function greet() {
  const info = await getJson("/info");
  const { model, limits, capabilities, warnings, ready } = info;
  if (!model) {
    byId("model").textContent = "The model is being loaded…";
    return setTimeout(start, POLL_MS);
  }
  const size =
    model.parameters >= 1e9 ? `${(model.parameters / 1e9).toFixed(1)} B` : `${(model.parameters / 1e6).toFixed(1)} M`;
  const facts = [
    `${size} parameters`,
    model.known_concepts && `${model.known_concepts.toLocaleString("en")} known concepts`,
    `context ${limits.context}`,
    model.device,
    model.dtype,
  ];
  byId("model").replaceChildren(
    h("strong", model.name),
    ` ${facts.filter(Boolean).join(" · ")}${ready ? "" : " · not ready"}`,
  );
  byId("note").textContent = warnings.join(" ");
  byId("note").hidden = warnings.length === 0;
  form.offer(capabilities);
  const offered = EXAMPLES.filter(
    (example) => capabilities.includes("steer") || !(example.amplify || example.suppress || example.inputs),
  );
  byId("examples").replaceChildren(
    ...offered.map((example) => h("button", { onclick: () => loadExample(example) }, example.label)),
  );
  await open(offered[0]);
}

function start() {
  greet().catch(showError);
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("again").addEventListener("click", () => run(again));
byId("draw-seed").addEventListener("click", () => {
  byId("form").elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  run();
});
byId("link").addEventListener("click", async () => {
  history.replaceState(null, "", `#${toFragment(shared())}`);
  flash(byId("link"), (await copy(location.href)) ? "Copied" : "In the address bar");
});
byId("copy").addEventListener("click", async () => {
  const copied = await copy(byId("snippet").textContent);
  if (!copied) getSelection().selectAllChildren(byId("snippet"));
  flash(byId("copy"), copied ? "Copied" : "Selected");
});
for (const language of document.getElementsByName("language")) language.addEventListener("change", drawSnippet);
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && running) running.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  }
});
addEventListener("hashchange", () => {
  const request = fromFragment(location.hash.slice(1));
  if (request) form.write(request);
});
byId("empty")
  .querySelector(".ghost")
  .append(...Array.from({ length: 32 }, (_, i) => h("span", { "--confidence": ((i * 7) % 10) / 10 })));
start();
