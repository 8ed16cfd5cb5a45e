// Input attribution as a heat map over the tokens that the model saw.

import { joined } from "./characters.js";
import { gap, h, signed, visible } from "./dom.js";

/**
 * The heat map: of one token in logits, with what was visible when it was committed; of all as mean shares of the
 * prompt. Tokens that make a character only together have one cell, with the sum of their scores.
 */
export async function heat(lane, position, whole, { inputs }) {
  const target = inputs.targets[0];
  const ranked = new Map(inputs.prompt_ranking.map((token) => [token.position, token]));
  const step = lane.commits.get(position).step;
  const visibleAt = (at) => ranked.has(at) || lane.commits.get(at)?.step < step;
  const length = whole ? ranked.size : target?.scores.length;
  if (!length) return [h("p.hint", "There is nothing to attribute.")];
  const tokens = Array.from({ length }, (_, at) => ranked.get(at) ?? lane.commits.get(at) ?? { text: "" });
  const characters = await joined(tokens);
  const score = (at) => (whole ? ranked.get(at).score : target.scores[at]);
  const cells = [];
  for (let at = 0; at < length; at += cells.at(-1).positions.length) {
    const { length: count, text } = characters.get(at) ?? { length: 1, text: tokens[at].text };
    const positions = Array.from({ length: count }, (_, i) => at + i);
    cells.push({ positions, text, score: positions.reduce((sum, at) => sum + score(at), 0) });
  }
  const most = Math.max(...cells.map(({ score }) => Math.abs(score)), 1e-9);
  const unit = whole ? "of its attribution" : "logits";
  const draw = ({ positions, text, score }) => {
    if (!whole && positions.includes(position)) return [gap(text), h("b.target", visible(text))];
    if (!whole && !positions.some(visibleAt)) return [" ", h("span.masked", { title: "masked then" })];
    const share = Math.abs(score) / most;
    const title = `${signed(score)} ${unit}`;
    return [gap(text), h("span", { class: score < 0 ? "against" : "for", "--share": share, title }, visible(text))];
  };
  const top = cells.reduce((best, cell) => (cell.score > best.score ? cell : best));
  const note = whole
    ? "Mean share of each prompt token in the attribution of all generated tokens."
    : `What each visible token did for the logit, step ${step + 1}. Sum ${signed(target.sum)} of ${signed(target.logit_delta)}.`;
  return [
    h("p.tokens", { dir: "auto" }, cells.flatMap(draw)),
    h(
      "p.legend",
      h("span.against", { "--share": 1 }, `−${most.toFixed(2)}`),
      h("span", "0"),
      h("span.for", { "--share": 1 }, `+${most.toFixed(2)}`),
    ),
    h("p.hint", note, top.score > 0 && [" Most: “", h("bdi", visible(top.text)), "”."]),
  ];
}
