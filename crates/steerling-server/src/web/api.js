// Talking to the server: JSON, server-sent events, refusals, the API key.

import { byId } from "./dom.js";

const KEY = "steerling-api-key";

/** A refusal as the server said it, or that there was no answer at all. */
export class Refusal extends Error {
  constructor(error, status = null, retryAfter = null) {
    super(error.message);
    this.error = error;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Where a path of the server is, also behind a proxy that serves it under a prefix. */
export const url = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export async function getJson(path, signal) {
  return (await send(path, { signal })).json();
}

export async function postJson(path, body, signal) {
  return (await send(path, post(body, signal))).json();
}

/** The events of a stream, as `[name, data]`. An `error` event and a stream that is cut short are thrown. */
export async function* postEvents(path, body, signal) {
  const response = await send(path, post(body, signal));
  let ended = false;
  for await (const [name, data] of events(response.body)) {
    if (name === "error") throw new Refusal(data.error);
    // Lanes end one by one; a summary follows the last.
    ended = name === "summary" || (name === "done" && data.lane === undefined);
    yield [name, data];
  }
  if (!ended) throw new Refusal({ code: "no_answer", message: "the stream was cut short" });
}

function post(body, signal) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal };
}

async function send(path, options) {
  let asked = false;
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = {
      ...options.headers,
      ...(key && { authorization: `Bearer ${key}` }),
    };
    const response = await fetch(url(path), { ...options, headers }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refusal({ code: "no_answer", message: `the server cannot be reached (${error.message})` });
    });
    if (response.ok) return response;
    const refusal = await read(response);
    // A wrong key is asked for again as long as the user gives one.
    if (response.status !== 401 || !(await askForKey(refusal, asked))) throw refusal;
    asked = true;
  }
}

async function read(response) {
  const fallback = { code: String(response.status), message: response.statusText || "the server refused" };
  const body = await response.json().catch(() => null);
  return new Refusal(body?.error ?? fallback, response.status, response.headers.get("retry-after"));
}

/** Several requests may be refused at once: they wait for one answer. */
let asking = null;

function askForKey(refusal, again) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-message").textContent = again ? `Not this one: ${refusal.message}` : refusal.message;
    byId("key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.returnValue === "use" && byId("key").value !== "";
        if (given) sessionStorage.setItem(KEY, byId("key").value);
        byId("key").value = "";
        asking = null;
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const records = (rest + value).split("\n\n");
      rest = records.pop();
      for (const record of records) {
        const lines = record.split("\n");
        const field = (name) =>
          lines
            .find((line) => line.startsWith(name))
            ?.slice(name.length)
            .trim();
        // A comment that keeps the connection open has neither.
        if (field("event:")) yield [field("event:"), JSON.parse(field("data:"))];
      }
    }
  } finally {
    // Whoever stops reading also ends the work.
    await reader.cancel().catch(() => {});
  }
}
