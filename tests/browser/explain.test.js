// Why: the parts of a token's logit, the bars of a chunk, the heat map over the prompt. All numbers are the server's.

import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible, fill, run, shot, world } from "./support.js";

const { open } = world();

/** The numbers of a table or list, with the signs as they are printed. */
const number = (text) => Number(text.replace("−", "-").replace(/[^-\d.]/g, ""));

/** Runs and gives the last event of the stream. */
async function answered(page) {
  const response = page.waitForResponse((response) => /\/(generate|steer)$/.test(response.url()));
  await run(page);
  const text = await (await response).text();
  return JSON.parse(text.slice(text.lastIndexOf("\ndata: {") + 7));
}

test("a token shows the parts of its logit and the concepts that chose it", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16, seed: 1 });
  const { attribution } = await answered(page);
  const token = attribution.tokens.find(({ known }) => known[0].name === "Cooking" && known[0].contribution > 1);
  await page.locator(`.token[data-position="${token.position}"]`).click();
  const rows = await page.locator(".split tbody tr, .split tfoot tr").allTextContents();
  const logits = await page.locator(".split td:last-child").allTextContents();
  const expected = [token.known_total, token.unknown_total, token.epsilon, token.target_logit];
  logits.forEach((shown, i) =>
    assert.ok(Math.abs(number(shown) - expected[i]) <= 0.005, `${rows[i]}: ${shown}, not ${expected[i]}`),
  );
  const shares = await page
    .locator(".split .stack span")
    .evaluateAll((all) => all.map((part) => Number(part.style.getPropertyValue("--share"))));
  assert.ok(Math.abs(shares.reduce((a, b) => a + b) - 1) < 1e-4);
  const first = page.locator(".inspector .bars li").first();
  assert.equal(await first.locator(".name").textContent(), "Cooking");
  assert.ok(Math.abs(number(await first.locator(".value").textContent()) - token.known[0].contribution) <= 0.005);
  await accessible(page);
  await shot(page, "token");
});

test("the arrow keys go through the tokens, enter explains one", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16 });
  await run(page);
  await page.locator('.token[tabindex="0"]').focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator(".token.selected").getAttribute("data-position"), "6");
  assert.equal(await page.locator('.token[tabindex="0"]').count(), 1);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press(" ");
  assert.ok(Number(await page.locator(".token.selected").getAttribute("data-position")) > 6, "in a later line");
  await page.keyboard.press("End");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator(".token.selected").getAttribute("data-position"), "19");
});

test("a chunk shows its bars and where it is", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 64, seed: 1 });
  const { attribution } = await answered(page);
  assert.equal(await page.locator(".chunks button").count(), attribution.chunks.length);
  const chunk = attribution.chunks[0];
  await page.locator(".chunks button").first().click();
  const known = chunk.concepts.filter(({ head }) => head === "known");
  const first = page.locator(".inspector .bars li").first();
  assert.equal(await first.locator(".name").textContent(), known[0].name);
  assert.ok(Math.abs(number(await first.locator(".value").textContent()) - known[0].score) <= 0.0005);
  assert.equal(await page.locator(".token.in-chunk").count(), chunk.end - chunk.start);
  await accessible(page);
  await shot(page, "chunk");
});

test("input attribution is a heat map over what the model read", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16, seed: 1 });
  await run(page);
  const position = 4;
  await page.locator(`.token[data-position="${position}"]`).click();
  for (const method of ["integrated_gradients", "occlusion"]) {
    await page.getByLabel("Method of input attribution").selectOption(method);
    const response = page.waitForResponse("**/attribute");
    await page.getByRole("button", { name: "This token", exact: true }).click();
    const { inputs } = await (await response).json();
    assert.equal(inputs.method, method);
    assert.deepEqual(
      inputs.targets.map((target) => target.position),
      [position],
    );
    await page.locator(".heat .tokens").waitFor();
    const scores = inputs.targets[0].scores.slice(0, 4);
    const shown = await page
      .locator(".heat .tokens > *")
      .evaluateAll((all) =>
        all.slice(0, 4).map((token) => [token.textContent, parseFloat(token.title.replace("−", "-"))]),
      );
    assert.deepEqual(
      shown.map(([text]) => text),
      ["The", "chef", "stirred", "the"],
    );
    shown.forEach(([, value], i) => assert.ok(Math.abs(value - scores[i]) <= 0.005, `${value}, not ${scores[i]}`));
  }
  assert.equal(await page.locator(".heat .target").count(), 1);
  const response = page.waitForResponse("**/attribute");
  await page.getByRole("button", { name: "Whole text" }).click();
  const { inputs } = await (await response).json();
  assert.equal(inputs.targets.length, 16);
  await page.waitForFunction(() => document.querySelectorAll(".heat .tokens > *").length === 4);
  const [best] = inputs.prompt_ranking;
  const strongest = await page
    .locator(".heat .tokens > *")
    .evaluateAll((all) => [...all].sort((a, b) => parseFloat(b.title) - parseFloat(a.title))[0].textContent);
  assert.equal(strongest, best.text.trim());
  await accessible(page);
  await shot(page, "heat");
});

test("a steered token is attributed under its steering", async (t) => {
  const page = await open(t);
  await run(page);
  for (const [lane, steered] of [
    ["steered", true],
    ["default", false],
  ]) {
    await page.locator(`[data-lane="${lane}"] .token[role]`).nth(3).click();
    const request = page.waitForRequest("**/attribute");
    await page.getByRole("button", { name: "This token", exact: true }).click();
    const body = (await request).postDataJSON();
    assert.equal(Boolean(body.steering), steered);
    await page.locator(".heat .tokens").waitFor();
  }
});

test("a run without explanations says how to get them", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 8 });
  await page.getByText("Sampling and other fields").click();
  await page.getByLabel("Explain every token by concepts").uncheck();
  await run(page);
  await page.locator(".token[role]").first().click();
  assert.match(await page.locator(".inspector").textContent(), /was not explained/);
});
