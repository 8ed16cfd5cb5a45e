// Runs that are left before their end, with a model that takes long, for the demo model is done at once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { PATIENCE_MS, done, fill, slowModel, tokens, world } from "./support.js";

/** As many as the model of these tests takes long for. */
const ASKED = 4000;

const { open } = world("--model", await slowModel());

test("stop keeps what there is, and frees the server", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: ASKED });
  const committed = async () => {
    const metrics = await page.evaluate(() => fetch("metrics").then((answer) => answer.text()));
    return Number(metrics.match(/^steerling_tokens_committed_total (\d+)/m)[1]);
  };
  for (const stop of [() => page.locator("#stop").click(), () => page.keyboard.press("Escape")]) {
    const before = await committed();
    await page.locator("#run").click();
    // What the run before has left is shown until this one begins.
    await page.waitForFunction(
      () =>
        document.querySelector("#status").textContent.startsWith("Writing") &&
        document.querySelectorAll(".token[role]").length > 5,
    );
    await stop();
    await page.locator("#run").waitFor();
    assert.match(await page.locator("#status").textContent(), /^Stopped after step \d+/);
    const shown = (await tokens(page)).filter(Boolean).length;
    assert.ok(shown > 5 && shown < ASKED, `${shown} tokens`);
    const started = Date.now();
    while ((await page.evaluate(() => fetch("info").then((answer) => answer.json()))).load.active > 0) {
      assert.ok(Date.now() - started < PATIENCE_MS, "the generation goes on");
    }
    const written = (await committed()) - before;
    assert.ok(written >= shown && written < ASKED, `${written} tokens`);
  }
});

test("a second run takes the place of the first, which leaves nothing behind", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: ASKED });
  await page.locator("#run").click();
  await page.waitForFunction(() => document.querySelectorAll(".token[role]").length > 5);
  await page.locator("[name=max_new_tokens]").fill("16");
  await page.keyboard.press("Control+Enter");
  await done(page);
  assert.equal((await tokens(page)).length, 16);
  await page.waitForTimeout(300);
  assert.match(await page.locator("#status").textContent(), /^Done/);
  assert.ok(await page.locator("#run").isVisible());
});
