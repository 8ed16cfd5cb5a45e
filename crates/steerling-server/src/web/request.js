// What the form holds, what is sent of it, and how a link carries it.

/** Strengths of the server's presets, and how far the sliders go. */
export const STRENGTH = { amplify: { usual: 8, most: 16 }, suppress: { usual: 7, most: 14 } };
/** The server's default for what `suppress` takes from the logits of the concept's tokens, at the usual target. */
const SUPPRESS_STRENGTH = 20;
/** Fields that are sent as numbers if they are filled in. */
const NUMBERS = ["max_new_tokens", "seed", "steps", "temperature", "top_p", "repetition_penalty"];
const MESSAGE_ROLES = ["system", "user", "assistant"];

const EMPTY = {
  mode: "prompt",
  prompt: "",
  messages: [{ role: "user", content: "" }],
  chips: [],
  compare: true,
  explain: true,
  extra: "",
  max_new_tokens: "48",
  seed: "1",
  steps: "",
  temperature: "",
  top_p: "",
  repetition_penalty: "",
};

/** A request with everything that `raw` says and that makes sense; `raw` may come from a stranger's link. */
export function normalize(raw) {
  const request = structuredClone(EMPTY);
  for (const [name, usual] of Object.entries(EMPTY)) {
    if (typeof raw?.[name] === typeof usual && !Array.isArray(usual)) request[name] = raw[name];
  }
  if (Array.isArray(raw?.messages)) {
    const sane = (message) => MESSAGE_ROLES.includes(message?.role) && typeof message.content === "string";
    request.messages = raw.messages.filter(sane).map(({ role, content }) => ({ role, content }));
  }
  if (Array.isArray(raw?.chips)) request.chips = raw.chips.filter((chip) => Number.isInteger(chip?.id)).map(chipOf);
  return request;
}

/**
 * A concept in the request: what it is called, which way it is steered, how strongly, and whether the user has been
 * asked about a concept that is not meant to be steered.
 */
export function chipOf({ id, name, direction, strength, force }) {
  const way = direction === "suppress" ? "suppress" : "amplify";
  const { usual, most } = STRENGTH[way];
  const sane = typeof strength === "number" && strength >= 0 && strength <= most;
  return {
    id,
    name: String(name ?? `concept ${id}`),
    direction: way,
    strength: sane ? strength : usual,
    force: force === true,
  };
}

/** Where the request goes, and its body. Throws a SyntaxError if the JSON of other fields is none. */
export function compose(request, { steer = true, explain = true } = {}) {
  const body = request.mode === "chat" ? { messages: request.messages } : { prompt: request.prompt };
  for (const name of NUMBERS) {
    if (request[name] !== "") body[name] = Number(request[name]);
  }
  // A temperature has an effect only without entropy sampling.
  if (request.temperature !== "") body.use_entropy_sampling = false;
  const steered = steer && request.chips.length > 0;
  if (steered) {
    body.steering = steering(request);
    body.compare = request.compare;
  }
  if (explain && request.explain) body.attribution = { top_known: 10, top_unknown: 10 };
  body.return_trace = true;
  const extra = request.extra.trim() === "" ? {} : JSON.parse(request.extra);
  if (extra === null || typeof extra !== "object" || Array.isArray(extra)) throw new SyntaxError("not a JSON object");
  Object.assign(body, extra);
  // The server draws a seed that is null, and the link that carries it has it in the field of its own.
  if (body.seed === null && request.seed !== "") body.seed = Number(request.seed);
  return { path: steered || extra.steering ? "/steer" : "/generate", body };
}

function steering({ chips }) {
  const steering = {};
  for (const { id, direction, strength } of chips) {
    const entry = { concept: id };
    if (direction === "amplify") entry.target = strength;
    // Both halves of the preset follow the slider.
    else
      Object.assign(entry, {
        target: -strength,
        strength: round((strength / STRENGTH.suppress.usual) * SUPPRESS_STRENGTH),
      });
    (steering[direction] ??= []).push(entry);
  }
  if (chips.some(({ force }) => force)) steering.force = true;
  return steering;
}

const round = (value) => Math.round(value * 100) / 100;

/** The part of the address behind `#`: base64 of UTF-8, in the alphabet of addresses. */
export function toFragment(request) {
  const filled = Object.entries(request).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(EMPTY[name]),
  );
  const bytes = new TextEncoder().encode(JSON.stringify(Object.fromEntries(filled)));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** The request of such a part, or null if it holds none. */
export function fromFragment(fragment) {
  try {
    const binary = atob(fragment.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
    // A link cannot give consent: the person who opens it is asked.
    const raw = JSON.parse(new TextDecoder().decode(bytes), (name, value) => (name === "force" ? undefined : value));
    return raw !== null && typeof raw === "object" ? normalize(raw) : null;
  } catch {
    return null;
  }
}
