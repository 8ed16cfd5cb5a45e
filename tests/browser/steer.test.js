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

/** Counts the requests to `/steer`, so that a question before one can be told from a question after. */
function asked(page) {
  const sent = [];
  page.on("request", (request) => request.url().endsWith("/steer") && sent.push(request.postDataJSON()));
  return sent;
}

test("a concept without a label is steered only after a question, by keyboard alone", async (t) => {
  const page = await open(t);
  const sent = asked(page);
  await fill(page, { prompt: "The chef stirred the soup.", tokens: 8 });
  await run(page);
  await page.locator(".token[role]").first().click();
  const before = await tokens(page);
  for (const way of ["Amplify", "Suppress"]) {
    const button = page.getByRole("button", { name: new RegExp(`^${way} unknown #\\d+ and run again$`) }).first();
    const [name] = (await button.getAttribute("aria-label")).match(/unknown #\d+/);
    const dialog = page.getByRole("dialog", { name: "Steer an unlabelled concept anyway?" });
    await button.focus();
    await page.keyboard.press("Enter");
    await dialog.waitFor();
    // What assistive software reads out when the dialog opens.
    const description = await dialog.evaluate(
      (dialog) => document.getElementById(dialog.getAttribute("aria-describedby")).textContent,
    );
    assert.match(description, new RegExp(`${name}.*not steerable`));
    assert.ok(await dialog.evaluate((dialog) => dialog.contains(document.activeElement)));
    await accessible(page);
    if (way === "Amplify") await shot(page, "consent");
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
    assert.ok(await button.evaluate((button) => button === document.activeElement), "the focus goes back");
    assert.deepEqual([await chips(page), sent], [[], []], "nothing is added, nothing is asked");
    assert.deepEqual(await tokens(page), before);
    await page.keyboard.press("Enter");
    await dialog.waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
    assert.deepEqual([await chips(page), sent], [[], []]);
  }
  const button = page.getByRole("button", { name: /^Amplify unknown #\d+ and run again$/ }).first();
  await button.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Steer an unlabelled concept anyway?" }).waitFor();
  await page.keyboard.press("Enter");
  await done(page);
  assert.equal(await page.locator(".lane").count(), 2);
  assert.equal(sent.length, 1);
  assert.equal(sent[0].steering.force, true);
  assert.ok(await page.locator("#error").isHidden());

  // The answer is for this concept: the next run does not ask, another concept does.
  await run(page);
  await page.locator('[data-lane="default"] .token[role]').first().click();
  const [first] = (await chips(page)).map(([, name]) => name);
  const other = page.getByRole("button", { name: /^Suppress unknown #\d+ and run again$/ });
  const labels = await other.evaluateAll((all) => all.map((button) => button.getAttribute("aria-label")));
  const next = labels.find((label) => !label.includes(`${first} `));
  await page.getByRole("button", { name: next }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  assert.equal(sent.length, 2);

  // Known concepts are steered without a word.
  await page.getByRole("button", { name: /^Suppress Cooking and run again$/ }).click();
  await done(page);
  assert.equal(sent.length, 3);
});

test("a concept of a shared link or of the other fields is asked for as well", async (t) => {
  const catalogue = await open(t);
  const { items } = await catalogue.evaluate(() =>
    fetch("concepts?head=unknown&steerable=any&limit=1").then((answer) => answer.json()),
  );
  const [{ id, index, name }] = items;
  const encode = (value) => `#${Buffer.from(JSON.stringify(value)).toString("base64url")}`;
  // The sender's consent is not the receiver's.
  const link = { prompt: "x", max_new_tokens: "8", force: true, chips: [{ id, name, strength: 4, force: true }] };
  const page = await open(t, { fragment: encode(link), expectRefusals: true });
  const sent = asked(page);
  const dialog = page.getByRole("dialog", { name: "Steer an unlabelled concept anyway?" });
  await page.keyboard.press("Control+Enter");
  await dialog.waitFor();
  await page.keyboard.press("Control+Enter");
  assert.deepEqual(sent, [], "no way around the question");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal((await chips(page)).length, 1);
  await page.locator("#run").click();
  await page.getByRole("button", { name: "Steer anyway" }).click();
  await done(page);
  assert.equal(sent.length, 1);
  assert.equal(sent[0].steering.force, true);
  await page.locator("#link").click();
  const passedOn = JSON.parse(Buffer.from(new URL(page.url()).hash.slice(1), "base64url"));
  assert.equal(passedOn.chips[0].id, id);
  const receiver = await open(t, { fragment: encode(passedOn) });
  await receiver.locator("#run").click();
  await receiver.getByRole("button", { name: "Steer anyway" }).waitFor();

  // A request that the user has written: the server says so, and the question follows.
  for (const concept of [{ unknown: index }, id]) {
    await fill(page, { prompt: "x", tokens: 8, extra: JSON.stringify({ steering: { amplify: [{ concept }] } }) });
    await page.locator("#run").click();
    await dialog.waitFor();
    assert.match(await page.locator("#status").textContent(), /^Done/, "what was there stays");
    await page.getByRole("button", { name: "Steer anyway" }).click();
    await done(page);
    assert.equal(sent.at(-1).steering.force, true);
    assert.ok(await page.locator("#error").isHidden());
  }
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
