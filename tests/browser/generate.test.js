// Writing: what is seen while a text comes about, afterwards, and when it does not.

import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible, done, fill, run, shot, tokens, world } from "./support.js";

const { open } = world();

test("a text unmasks position by position, block by block", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 48 });
  // Every state that the grid goes through, as rows of masked and not.
  await page.evaluate(() => {
    window.states = [];
    const look = () => {
      const state = [...document.querySelectorAll("#lanes .token")]
        .map((token) => (token.hasAttribute("role") ? "x" : "░"))
        .join("");
      if (state && state !== window.states.at(-1)) window.states.push(state);
      requestAnimationFrame(look);
    };
    look();
  });
  await page.locator("#run").click();
  await page.locator(".token.masked").first().waitFor();
  await shot(page, "unmasking");
  await done(page);
  // The last state is seen a frame after it is there.
  await page.waitForFunction(() => !window.states.at(-1).includes("░"));
  const states = await page.evaluate(() => window.states);
  assert.ok(states.length >= 10, `${states.length} states`);
  assert.equal(states[0].length, 48);
  const shown = states.map((state) => state.split("x").length - 1);
  assert.deepEqual(
    shown,
    [...shown].sort((a, b) => a - b),
    "no token goes away again",
  );
  assert.equal(shown.at(-1), 48);
  assert.ok(
    states.some((state) => /░+x/.test(state)),
    "not from left to right",
  );
  for (const state of states)
    assert.ok(
      !/░.*x/.test(state.slice(0, 16)) || !state.slice(16).includes("x"),
      "a block begins when the one before is full",
    );
  assert.match(await page.locator(".lane .facts").textContent(), /^48 tokens · 48 steps · [\d.]+ s$/);
  await accessible(page);
});

test("the same request gives the text of the API, with shading by confidence", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16, seed: 5 });
  await run(page);
  const answer = await page.evaluate(() =>
    fetch("generate", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "The chef stirred the", max_new_tokens: 16, seed: 5, return_trace: true }),
    }).then((answer) => answer.json()),
  );
  const byPosition = [...answer.trace.commits].sort((a, b) => a.position - b.position);
  const expected = byPosition.map(({ text }) => text.replace("\n", "↵").trim());
  assert.deepEqual(
    (await tokens(page)).map((text) => text.trim()),
    expected,
  );
  const shading = await page
    .locator(".token")
    .evaluateAll((all) => all.map((token) => Number(token.style.getPropertyValue("--confidence"))));
  shading.forEach((shade, i) => assert.ok(Math.abs(shade - byPosition[i].confidence) < 0.001));
});

test("the slider and the replay show every earlier step again", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 32 });
  await run(page);
  const whole = await tokens(page);
  for (const step of [0, 1, 7, 20, 31]) {
    await page.locator("#step").fill(String(step));
    await page.waitForFunction((step) => document.querySelector("#step-value").textContent === `${step} / 32`, step);
    const now = await tokens(page);
    assert.equal(now.filter(Boolean).length, step);
    now.forEach((token, i) => assert.ok(token === null || token === whole[i]));
  }
  await shot(page, "replay");
  await page.locator("#step").focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction(() => document.querySelector("#step-value").textContent === "1 / 32");
  await page.locator("#replay").click();
  await page.waitForFunction(() => document.querySelector("#step-value").textContent === "32 / 32");
  assert.deepEqual(await tokens(page), whole);
  assert.equal(await page.locator("#replay").textContent(), "Replay");
});

test("as text, lines break where the model broke them", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 64 });
  await run(page);
  await page.locator("#toolbar").getByText("Text").click();
  const lines = await page.locator("#lanes .line-end").count();
  assert.equal(lines, (await tokens(page)).filter((token) => token.includes("↵")).length);
  assert.ok(lines > 0, "this seed breaks a line");
  await shot(page, "text");
  await accessible(page);
});

test("a refusal is shown as the server said it, beside the field that it names", async (t) => {
  const page = await open(t, { expectRefusals: true });
  await fill(page, { prompt: "x", tokens: 100_000 });
  const answer = page.waitForResponse("**/generate");
  await page.locator("#run").click();
  const { error } = await (await answer).json();
  const shown = page.locator("#error");
  await shown.waitFor();
  const text = await shown.textContent();
  for (const part of [error.code, error.message, error.param, error.request_id, "422"])
    assert.ok(text.includes(part), `${part} in ${text}`);
  assert.equal(await page.locator("[name=max_new_tokens]").getAttribute("aria-invalid"), "true");
  await accessible(page);
  await shot(page, "error");
  await page.locator("[name=max_new_tokens]").fill("8");
  await run(page);
  assert.ok(await shown.isHidden());

  await fill(page, { prompt: "x", tokens: 8, extra: '{"colour": "blue"}' });
  await page.locator("#run").click();
  await shown.waitFor();
  assert.match(await shown.textContent(), /colour/);
  await fill(page, { prompt: "x", tokens: 8, extra: "{" });
  await page.locator("#run").click();
  await page.waitForFunction(() => document.querySelector("#error").textContent.includes("invalid_json"));
});

test("what prompts, texts and concepts say is shown, never obeyed", async (t) => {
  const evil = `<img src=x onerror="window.obeyed=1"><script>window.obeyed=1</script>`;
  const page = await open(t, {
    setUp: async (page) => {
      await page.route("**/concepts?**", async (route) => {
        const answer = await (await route.fetch()).json();
        answer.items.forEach((item) => Object.assign(item, { name: evil, description: evil }));
        await route.fulfill({ json: answer });
      });
      await page.route("**/steer", async (route) => {
        const text = await (await route.fetch()).text();
        await route.fulfill({
          contentType: "text/event-stream",
          body: text
            .replaceAll('"text":" ', `"text":${JSON.stringify(` ${evil}`).slice(0, -1)}`)
            .replaceAll('"name":"', `"name":${JSON.stringify(evil).slice(0, -1)}`),
        });
      });
    },
  });
  await page.locator("#prompt").fill(evil);
  await page.locator("#search").fill("ocean");
  await page.getByRole("option").first().waitFor();
  await run(page);
  await page.locator(".token[role]").first().click();
  await page.locator(".chunks button").first().click();
  await page.locator("#code summary").click();
  assert.ok((await page.locator("body").textContent()).includes("<img src=x"));
  assert.equal(await page.locator("img[src=x], body script:not([src])").count(), 0);
  assert.equal(await page.evaluate(() => window.obeyed), undefined);
});
