// Characters whose bytes are cut into several tokens: none of these tokens has a text of its own.

import { postJson } from "./api.js";

/** What the server shows for bytes that are no character on their own. */
const PART = "\uFFFD";
/** A character has at most four bytes; a token may end one character and begin the next. */
const LONGEST = 6;
/** Runs of tokens that are decoded by one request, far below the server's limit for a body. */
const BATCH = 2000;

/**
 * Which tokens make characters only together: a map from the position of the first to `{length, text}`. `tokens` is an
 * array by position, with holes, of `{id, text}`. Asks the server only if there are such tokens.
 */
export async function joined(tokens) {
  const found = new Map();
  const runs = candidates(tokens);
  if (runs.length === 0) return found;
  try {
    const texts = await decode(runs.map(({ at, length }) => tokens.slice(at, at + length)));
    let free = 0;
    runs.forEach(({ at, length }, i) => {
      if (at < free || texts[i].includes(PART)) return;
      found.set(at, { length, text: texts[i] });
      free = at + length;
    });
  } catch {
    // The tokens are shown one by one.
  }
  return found;
}

/** Runs of tokens that may be whole characters, in order of their beginning, the shortest first. */
function candidates(tokens) {
  const runs = [];
  tokens.forEach(({ text }, at) => {
    for (let length = 1; length < LONGEST && text.endsWith(PART); ) {
      text = tokens[at + length]?.text ?? "";
      if (!text.startsWith(PART)) return;
      length += 1;
      runs.push({ at, length });
    }
  });
  return runs;
}

/** A special token, whose name is in no text of parts of characters. */
let separator;

/** The texts of many runs of tokens. */
async function decode(runs) {
  separator ??= (await postJson("/tokenize", { text: " ", add_special_tokens: true })).tokens[0];
  const texts = [];
  for (let from = 0; from < runs.length; from += BATCH) {
    const ids = runs.slice(from, from + BATCH).flatMap((run) => [...run, separator].map(({ id }) => id));
    const { text } = await postJson("/detokenize", { ids, skip_special_tokens: false });
    texts.push(...text.split(separator.text).slice(0, -1));
  }
  return texts;
}
