// Input attribution as a heat map over the tokens that the model saw.

import { gap, h, signed, visible } from "./dom.js";

/** The heat map: of one token in logits, with what was visible when it was committed; of all as mean shares of the prompt. */
export function heat(lane, position, whole, { inputs }) {
  const texts = new Map(inputs.prompt_ranking.map(({ position, text }) => [position, text]));
  const step = lane.commits.get(position).step;
  const visibleAt = (at) => texts.has(at) || lane.commits.get(at)?.step < step;
  const ranked = new Map(inputs.prompt_ranking.map(({ position, score }) => [position, score]));
  const target = inputs.targets[0];
  if (!target) return [h("p.hint", "There is nothing to attribute.")];
  const length = whole ? texts.size : target.scores.length;
  const score = (at) => (whole ? ranked.get(at) : target.scores[at]) ?? 0;
  const scores = Array.from({ length }, (_, at) => score(at));
  const most = Math.max(...scores.map(Math.abs), 1e-9);
  const unit = whole ? "of its attribution" : "logits";
  const textAt = (at) => texts.get(at) ?? lane.commits.get(at).text;
  const cell = (value, at) => {
    if (!whole && at === position) return [gap(textAt(at)), h("b.target", visible(textAt(at)))];
    if (!whole && !visibleAt(at)) return [" ", h("span.masked", { title: "masked then" })];
    const sign = value < 0 ? "against" : "for";
    return [
      gap(textAt(at)),
      h(
        "span",
        { class: sign, "--share": Math.abs(value) / most, title: `${signed(value)} ${unit}` },
        visible(textAt(at)),
      ),
    ];
  };
  const top = scores.map((value, at) => [value, at]).sort(([a], [b]) => b - a)[0];
  const note = whole
    ? "Mean share of each prompt token in the attribution of all generated tokens."
    : `What each visible token did for the logit, step ${step + 1}. Sum ${signed(target.sum)} of ${signed(target.logit_delta)}.`;
  return [
    h("p.tokens", scores.flatMap(cell)),
    h(
      "p.legend",
      h("span.against", { "--share": 1 }, `−${most.toFixed(2)}`),
      h("span", "0"),
      h("span.for", { "--share": 1 }, `+${most.toFixed(2)}`),
    ),
    h("p.hint", note, top && top[0] > 0 ? ` Most: “${visible(textAt(top[1]))}”.` : ""),
  ];
}
