// Text in any script: one cell for a character whose bytes are cut into several tokens, in the direction of the text.

import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible, fill, run, shot, world } from "./support.js";

const there = world();
const { open } = there;

const post = async (path, body) => {
  const answer = await fetch(there.server.url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return answer.json();
};

const number = (text) => parseFloat(text.replace("−", "-"));

/** The cells of the heat map: text, score and place. */
const heat = (page) =>
  page.locator(".heat .tokens > *").evaluateAll((all) =>
    all.map((cell) => {
      const { left, top } = cell.getBoundingClientRect();
      return { text: cell.textContent, title: cell.title, left, top };
    }),
  );

const rtl = (locator) => locator.evaluate((element) => element.matches(":dir(rtl)"));

/** Neighbouring cells of one line go to the left, or to the right. */
function order(cells) {
  const steps = cells
    .slice(1)
    .map((cell, i) => (Math.abs(cell.top - cells[i].top) < 4 ? cell.left - cells[i].left : 0));
  return { left: steps.filter((step) => step < 0).length, right: steps.filter((step) => step > 0).length };
}

for (const [script, prompt, direction] of [
  ["Chinese", "猫坐在垫子上", "ltr"],
  ["emoji", "😃😀🚀 ok", "ltr"],
  ["Arabic", "القط على السجادة", "rtl"],
  ["Hebrew", "החתול על השטיח", "rtl"],
])
  test(`a heat map over a prompt in ${script} has a cell for each character`, async (t) => {
    const page = await open(t);
    await fill(page, { prompt, tokens: 8 });
    assert.equal(await rtl(page.locator("#prompt")), direction === "rtl");
    await run(page);
    assert.equal(await page.locator(".lane .prompt").textContent(), prompt);
    assert.equal(await rtl(page.locator(".lane .prompt")), direction === "rtl");
    await page.locator(".token[role]").first().click();
    let detokenized = 0;
    page.on("request", (request) => (detokenized += request.url().endsWith("/detokenize")));
    const first = Math.min(...(await page.locator(".token").evaluateAll((all) => all.map((t) => t.dataset.position))));
    for (const [button, scoresOf] of [
      ["This token", ({ targets }) => targets[0].scores.slice(0, first)],
      ["Whole text", ({ prompt_ranking }) => prompt_ranking.map(({ score }) => score)],
    ]) {
      await page.locator(".heat").evaluate((heat) => heat.replaceChildren());
      const response = page.waitForResponse("**/attribute");
      await page.getByRole("button", { name: button, exact: true }).click();
      const { inputs } = await (await response).json();
      await page.locator(".heat .tokens").waitFor();
      const cells = await heat(page);
      const shown =
        button === "This token"
          ? cells.slice(
              0,
              cells.findIndex(({ title }) => title === ""),
            )
          : cells;
      const text = shown.map(({ text }) => text).join("");
      assert.equal(text.replaceAll("␣", ""), prompt.replaceAll(" ", ""));
      for (const { text } of shown) assert.ok(!/[\uFFFD▯]/.test(text), text);
      if (script !== "emoji") for (const { text } of shown) assert.equal([...text].length, 1, text);
      // A cell has the scores of all its tokens: none is lost.
      const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
      const [total, expected] = [sum(shown.map(({ title }) => number(title))), sum(scoresOf(inputs))];
      assert.ok(Math.abs(total - expected) <= 0.005 * (shown.length + 1), `${total}, not ${expected}`);
      const { left, right } = order(shown);
      assert.ok(direction === "rtl" ? left > right : left === 0, `${left} to the left, ${right} to the right`);
      assert.equal(await rtl(page.locator(".heat .tokens")), direction === "rtl");
      assert.ok(!/[\uFFFD▯]/.test(await page.locator(".heat").textContent()));
    }
    assert.equal(detokenized, 2, "one request for a map, however many characters");
    await accessible(page);
    await shot(page, `heat-${script}`);
  });

/** The tokens of a text as the server shows them one by one. */
async function tokensOf(text) {
  const { ids } = await post("tokenize", { text });
  return Promise.all(ids.map(async (id) => ({ id, text: (await post("detokenize", { ids: [id] })).text })));
}

/** Puts tokens into the stream of `/generate` from position `at`, as if the model had written them. */
async function write(page, tokens, at) {
  const change = (commit) => Object.assign(commit, tokens[commit.position - at]);
  await page.route("**/generate", async (route) => {
    const stream = await (await route.fetch()).text();
    const body = stream.split("\n\n").map((record) => {
      const [head, data] = record.split("\ndata: ");
      if (data === undefined) return record;
      const event = JSON.parse(data);
      (event.commits ?? event.trace?.commits ?? []).forEach(change);
      return `${head}\ndata: ${JSON.stringify(event)}`;
    });
    await route.fulfill({ contentType: "text/event-stream", body: body.join("\n\n") });
  });
}

test("characters that the model has cut into several tokens have one cell, and each of these its reasons", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16 });
  const parts = await tokensOf("語😃語");
  await write(page, parts, 8);
  assert.ok(parts.length > 6 && parts.every(({ text }) => text.includes("\uFFFD")), JSON.stringify(parts));
  await run(page);
  const cells = () =>
    page
      .locator(".token")
      .evaluateAll((all) => all.map((token) => [Number(token.dataset.position), token.textContent]));
  const shown = await cells();
  assert.equal(shown.length, 16 - parts.length + 3);
  const characters = shown.filter(([position]) => position >= 8 && position < 8 + parts.length);
  assert.deepEqual(
    characters.map(([, text]) => text),
    ["語", "😃", "語"],
  );
  assert.ok(!/[\uFFFD▯]/.test(await page.locator("#lanes").textContent()));

  // A character is there when all of its tokens are.
  const [position] = characters[1];
  const length = characters[2][0] - position;
  const titleOf = (position) => page.locator(`.token[data-position="${position}"]`).getAttribute("title");
  const step = Number((await titleOf(position)).match(/step (\d+)/)[1]);
  for (const [at, expected] of [
    [step - 1, ""],
    [step, "😃"],
  ]) {
    await page.locator("#step").fill(String(at));
    await page.waitForFunction((at) => document.querySelector("#step-value").textContent === `${at} / 16`, at);
    assert.equal(await page.locator(`.token[data-position="${position}"]`).textContent(), expected);
  }
  await page.locator("#step").fill("16");

  await page.locator(`.token[data-position="${position}"]`).click();
  const buttons = page.getByRole("group", { name: "Tokens of this character" }).getByRole("button");
  assert.equal(await buttons.count(), length);
  for (let i = 0; i < length; i++) {
    await buttons.nth(i).focus();
    await page.keyboard.press("Enter");
    assert.match(await page.locator(".inspector .facts").textContent(), new RegExp(`position ${position + i} `));
    assert.equal(await page.locator(".inspector h2").textContent(), "😃");
    assert.equal(await buttons.nth(i).getAttribute("aria-pressed"), "true");
    assert.equal(await page.locator(".token.selected").getAttribute("data-position"), String(position));
  }
  await accessible(page);
  await page.getByRole("button", { name: "This token", exact: true }).click();
  await page.locator(".heat .target").waitFor();
  assert.equal(await page.locator(".heat .target").textContent(), "😃");
  await shot(page, "characters");

  // The arrow keys take a character in one step.
  await page.locator(`.token[data-position="${position}"]`).focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator(".token.selected").textContent(), "語");
});

test("bytes that never become a character are shown as such, and take no neighbour with them", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16 });
  const [part] = await tokensOf("😃");
  await write(page, [part, part], 9);
  await run(page);
  assert.equal(await page.locator(".token").count(), 16);
  assert.deepEqual(await page.locator(".token", { hasText: "▯" }).allTextContents(), ["▯", "▯"]);
});

test("a text that is written from right to left has its cells in that order", async (t) => {
  const page = await open(t);
  await fill(page, { prompt: "The chef stirred the", tokens: 16 });
  await write(page, (await tokensOf("שלוםרבלך")).slice(0, 16), 4);
  await run(page);
  assert.ok(await rtl(page.locator(".lane .blocks")));
  assert.ok(!(await rtl(page.locator(".lane .prompt"))), "the prompt keeps its own");
  assert.ok(!(await rtl(page.locator(".lane .block-label"))));
  const places = () =>
    page.locator(".token").evaluateAll((all) => all.map((token) => token.getBoundingClientRect().toJSON()));
  let { left, right } = order((await places()).slice(0, 8));
  assert.ok(left > 0 && right === 0, "as a grid");
  await shot(page, "right-to-left");
  await page.locator("#toolbar").getByText("Text").click();
  ({ left, right } = order((await places()).slice(0, 8)));
  assert.ok(left > 0 && right === 0, "as text");
  await accessible(page);
});

test("names and texts of users have the direction of their script", async (t) => {
  const name = "מטבח";
  const page = await open(t, {
    setUp: (page) =>
      page.route("**/concepts?**", async (route) => {
        const answer = await (await route.fetch()).json();
        answer.items.forEach((item) => Object.assign(item, { name, description: name }));
        await route.fulfill({ json: answer });
      }),
  });
  assert.ok(await rtl(page.locator(".chip-name").first()));
  await page.locator("#search").fill("ocean");
  const option = page.getByRole("option").first();
  await option.waitFor();
  assert.ok((await rtl(option.locator("strong"))) && (await rtl(option.locator("span"))));
  await page.locator("#search").fill(name);
  assert.ok(await rtl(page.locator("#search")));
  assert.ok(!(await rtl(page.locator("#form"))));
});
