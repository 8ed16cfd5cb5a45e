// Talking to the server: JSON, server-sent events, refusals, the API key.

import { ask, byId } from "./dom.js";

const KEY = "steerling-api-key";
const JSON_TYPE = "application/json";

/** An error as the server said it, or that there was no answer of this server, or only a part of one. */
export class Refusal extends Error {
  constructor(error, status = null, retryAfter = null) {
    super(error.message);
    this.error = error;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  passing() {
    return !(this.status >= 400 && this.status < 500) || this.status === 429;
  }
}

/** Where a path of the server is, also behind a proxy that serves it under a prefix. */
export const url = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export async function getJson(path, signal) {
  return (await send(path, { signal }, JSON_TYPE)).json().catch(broken);
}

export async function postJson(path, body, signal) {
  return (await send(path, post(body, signal), JSON_TYPE)).json().catch(broken);
}

/**
 * The events of a stream, as `[name, data]`. An `error` event is thrown, and so is a stream that ends before its
 * result, with the code `connection_lost`.
 */
export async function* postEvents(path, body, signal) {
  const response = await send(path, post(body, signal), "text/event-stream");
  let ended = false;
  try {
    for await (const [name, data] of events(response.body)) {
      if (name === "error") throw new Refusal(data.error);
      // Variants end one by one; a summary follows the last.
      ended = name === "summary" || (name === "done" && data.lane === undefined);
      yield [name, data];
    }
  } catch (error) {
    if (!ended) throw error;
  }
  if (!ended) throw lost("the stream ended without a result");
}

/** Throws what it means that the body of an answer could not be read to its end. */
function broken(error) {
  throw error.name === "AbortError" ? error : lost(error.message);
}

const lost = (why) => new Refusal({ code: "connection_lost", message: `the connection was lost (${why})` });

/** A proxy, or whatever else is between the page and its server. */
const stranger = ({ status, statusText }, how) =>
  new Refusal(
    { code: "no_answer", message: `something other than the server answered: ${status} ${statusText} ${how}` },
    status,
  );

function post(body, signal) {
  return { method: "POST", headers: { "content-type": JSON_TYPE }, body: JSON.stringify(body), signal };
}

async function send(path, options, type) {
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
    if (response.ok && response.headers.get("content-type")?.startsWith(type)) return response;
    if (response.ok) throw stranger(response, `without ${type}`);
    const refusal = await read(response);
    // A wrong key is asked for again as long as the user gives one.
    if (response.status !== 401 || !(await askForKey(refusal, asked))) throw refusal;
    asked = true;
  }
}

async function read(response) {
  const body = await response.json().catch(() => null);
  if (typeof body?.error?.message !== "string") return stranger(response, "without a reason");
  return new Refusal(body.error, response.status, response.headers.get("retry-after"));
}

/** Several requests may be rejected at once: they wait for one answer. */
let asking = null;

function askForKey(refusal, again) {
  byId("key-message").textContent = again ? `Not this one: ${refusal.message}` : refusal.message;
  asking ??= ask("key-dialog").then((answer) => {
    const given = answer === "use" && byId("key").value !== "";
    if (given) sessionStorage.setItem(KEY, byId("key").value);
    byId("key").value = "";
    asking = null;
    return given;
  });
  return asking;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(broken);
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
        if (field("event:")) yield [field("event:"), parse(field("data:"))];
      }
    }
  } finally {
    // Whoever stops reading also ends the work.
    await reader.cancel().catch(() => {});
  }
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw lost("an event broke off");
  }
}
