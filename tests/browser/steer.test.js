// Steering: finding concepts, turning them up and down, seeing what that does.

import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible, done, fill, run, shot, tokens, world } from "./support.js";

const { open } = world();

const chips = (page) =>
  page
    .locator(".chip")
    .evaluateAll((all) =>
      all.map((chip) => [
        chip.querySelector(".turn").textContent,
        chip.querySelector(".chip-name").textContent,
        Number(chip.querySelector("input").value),
      ]),
    );

test("the page opens with a request worth running: one click, two texts side by side", async (t) => {
  const page = await open(t);
  assert.deepEqual(await chips(page), [
    ["Amplify", "Pirate speech", 8],
    ["Amplify", "Space", 8],
  ]);
  assert.match(await page.locator("#note").textContent(), /steerling-demo is a tiny model/);
  await shot(page, "first");
  await accessible(page);
  const sent = page.waitForRequest("**/steer");
  await run(page);
  const body = (await sent).postDataJSON();
  assert.equal(body.compare, true);
  assert.equal(body.stream, true);
  assert.deepEqual(
    body.steering.amplify.map(({ target }) => target),
    [8, 8],
  );
  const [left, right] = await page.locator(".lane h3").allTextContents();
  assert.deepEqual([left, right], ["Unsteered", "Steered"]);
  const [plain, steered] = [await tokens(page, "default"), await tokens(page, "steered")];
  assert.notDeepEqual(plain, steered);
  const pirates = ["Ahoy", "Aye", "Blimey", "rocket", "alien", "telescope", "spaceport"];
  const count = (text) => text.filter((token) => pirates.includes(token)).length;
  assert.ok(count(steered) >= 3 && count(plain) === 0, `${steered}`);
  assert.match(await page.locator("#effect").textContent(), /Positions that differ/);
  const [one, other] = await page
    .locator(".lane")
    .evaluateAll((lanes) => lanes.map((lane) => lane.getBoundingClientRect().top));
  assert.equal(one, other, "side by side");
  await accessible(page);
  await shot(page, "steered", { fullPage: true });
});

test("concepts are found and chosen with the keyboard alone", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The neighbour moved the table." });
  await page.locator("#search").focus();
  await page.keyboard.press("ArrowDown");
  await page.getByRole("option").first().waitFor();
  assert.ok((await page.getByRole("option").count()) >= 20, "without a word, there is a list to look through");
  await page.keyboard.type("tone");
  await page.waitForFunction(() => document.querySelectorAll("[role=option]").length === 5);
  assert.match(await page.getByRole("option").first().textContent(), /Formal toneThe stiff language/);
  await accessible(page);
  await shot(page, "search");
  await page.keyboard.press("ArrowDown");
  const active = await page.locator("#search").getAttribute("aria-activedescendant");
  assert.match(await page.locator(`#${active}`).textContent(), /^Cheerful tone/);
  await page.keyboard.press("Enter");
  assert.deepEqual(await chips(page), [["Amplify", "Cheerful tone", 8]]);

  // Backwards to the direction, then a part of a word.
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator("[name=direction]:checked").inputValue(), "suppress");
  await page.keyboard.press("Tab");
  await page.keyboard.type("pira");
  await page.waitForFunction(() => document.querySelectorAll("[role=option]").length === 1);
  await page.keyboard.press("Enter");
  assert.deepEqual(await chips(page), [
    ["Amplify", "Cheerful tone", 8],
    ["Suppress", "Pirate speech", 7],
  ]);

  await page.keyboard.type("xyzzy");
  await page.locator("#found-none").waitFor();
  assert.match(await page.locator("#found-none").textContent(), /No concept is named or described by “xyzzy”/);
  await page.keyboard.press("Escape");
  await page.keyboard.press("Control+Enter");
  await done(page);
});

test("strengths follow the sliders, and a chip can be turned round and taken away", async (t) => {
  const page = await open(t);
  await page.getByLabel("Strength of Space").focus();
  for (let i = 0; i < 4; i++) await page.keyboard.press("ArrowRight");
  await page.locator(".chip").first().getByRole("button", { name: "Amplify" }).click();
  assert.deepEqual(await chips(page), [
    ["Suppress", "Pirate speech", 7],
    ["Amplify", "Space", 10],
  ]);
  await page.getByLabel("Strength of Pirate speech").fill("3.5");
  const sent = page.waitForRequest("**/steer");
  await run(page);
  const { steering } = (await sent).postDataJSON();
  assert.deepEqual(
    steering.amplify.map(({ target }) => target),
    [10],
  );
  assert.deepEqual(
    steering.suppress.map(({ target, strength }) => [target, strength]),
    [[-3.5, 10]],
  );
  await page.getByRole("button", { name: "Remove Pirate speech" }).click();
  await page.getByRole("button", { name: "Remove Space" }).click();
  const plain = page.waitForRequest("**/generate");
  await run(page);
  assert.equal((await plain).postDataJSON().steering, undefined);
});

test("a concept of a token can be amplified or suppressed on the spot", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the soup.", tokens: 16 });
  await run(page);
  await page
    .locator(".token[role]", { hasText: /kitchen|kettle|stew|butcher|savoury/ })
    .first()
    .click();
  await page.getByRole("button", { name: "Suppress Cooking and run again" }).click();
  await done(page);
  assert.deepEqual(await chips(page), [["Suppress", "Cooking", 7]]);
  assert.notDeepEqual(await tokens(page, "default"), await tokens(page, "steered"));

  await page.locator('[data-lane="default"] .token[role]').first().click();
  await page.locator(".inspector .bars .name", { hasText: "unknown #" }).first().click();
  await page.locator(".inspector h2", { hasText: "unknown #" }).waitFor();
  await page.waitForFunction(() => document.querySelectorAll(".inspector .bars li").length === 12);
  await shot(page, "concept");
  await page.getByRole("button", { name: "Back" }).click();
  await page.locator(".inspector .split").waitFor();
});

test("what the catalogue says is not steerable needs a second word", async (t) => {
  const page = await open(t, { expectRefusals: true });
  await fill(page, { prompt: "The chef stirred the soup.", tokens: 8 });
  await run(page);
  await page.locator(".token[role]").first().click();
  await page
    .getByRole("button", { name: /^Amplify unknown #\d+ and run again$/ })
    .first()
    .click();
  await page.locator("#error").waitFor();
  assert.match(await page.locator("#error").textContent(), /not_steerable/);
  await page.getByRole("button", { name: "Steer anyway" }).click();
  await done(page);
  assert.equal(await page.locator(".lane").count(), 2);
  assert.ok(await page.locator("#error").isHidden());
});

test("the examples run with one click each", async (t) => {
  const page = await open(t);
  for (const name of await page.locator("#examples button").allTextContents()) {
    await page.locator("#status").evaluate((status) => (status.textContent = ""));
    await page.getByRole("button", { name, exact: true }).click();
    await done(page);
  }
  await page.locator(".heat .tokens").waitFor();
  await page.getByRole("button", { name: "Many tokens at once" }).click();
  const facts = page.locator(".lane .facts", { hasText: /^64 tokens · \d+ steps/ });
  const [, steps] = /(\d+) steps/.exec(await facts.textContent());
  assert.ok(steps <= 64 / 2.5, `${steps} steps`);
  await page.getByRole("button", { name: "Anything but cooking" }).click();
  await page.waitForFunction(() => document.querySelectorAll(".lane").length === 2);
  await done(page);
  const cooks = (text) =>
    text.filter((token) =>
      ["stew", "kitchen", "sauce", "roasted", "fry", "dough", "butcher", "waiter", "baker"].includes(token),
    ).length;
  assert.ok(cooks(await tokens(page, "default")) >= 2);
  assert.equal(cooks(await tokens(page, "steered")), 0);
});
