// What steering did, measured by the server over the finished texts.

import { h, percent, signed, track, visible } from "./dom.js";

/** The summary of a stream of several variants, as elements. */
export function effectOf({ resolved, effect }) {
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
      h("strong", h("bdi", concepts.map(({ name }) => name).join(" + "))),
      h("span.hint", ` up to ${signed(alpha * peak, 1)} logits: `),
      top_tokens.slice(0, 8).flatMap(({ text }) => [h("bdi.sample", visible(text)), " "]),
    );
  return [
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
  ];
}
