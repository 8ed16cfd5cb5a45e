// Steering what the catalogue does not mean to be steered takes a second word.

import { getJson } from "./api.js";
import { ask, byId, h } from "./dom.js";

/** Concept id -> what the catalogue says about the concept. */
const known = new Map();

async function lookUp({ id }) {
  if (!known.has(id)) known.set(id, await getJson(`/concepts/${id}`));
  return known.get(id);
}

/**
 * Whether the concepts may be steered: asks if the catalogue marks some as not steerable, and notes the consent in their
 * `force`. What cannot be looked up is left to the server.
 */
export async function consent(concepts) {
  const asked = concepts.filter(({ force }) => !force);
  const entries = await Promise.all(asked.map((concept) => lookUp(concept).catch(() => null)));
  const marked = entries.filter((entry) => entry && !entry.flags.steerable);
  if (marked.length === 0) return true;
  const names = marked.flatMap(({ name }, i) => [i > 0 && ", ", h("bdi", h("strong", name))]);
  const unlabelled = marked.some(({ head }) => head === "unknown");
  const why = unlabelled
    ? ": the model discovered this by itself, and it has no label. The catalogue marks it as not steerable: what steering it does to the text is not known."
    : ": the catalogue marks this as not steerable.";
  if (!(await steerAnyway(...names, why))) return false;
  asked.forEach((concept, i) => (concept.force = marked.includes(entries[i])));
  return true;
}

/** The question itself. */
export async function steerAnyway(...message) {
  byId("force-message").replaceChildren(...message.filter(Boolean));
  return (await ask("force-dialog")) === "yes";
}
