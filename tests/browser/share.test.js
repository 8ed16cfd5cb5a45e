// What leaves the page: links, code, files.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { promisify } from "node:util";
import { accessible, fill, run, shot, tokens, world } from "./support.js";

const there = world();
const { open } = there;
const exec = promisify(execFile);

test("a link carries the whole request and gives the same text", async (t) => {
  const page = await open(t, { permissions: ["clipboard-read", "clipboard-write"] });
  await fill(page, {
    prompt: "Kapitän “Ahab” fuhr\nnach 日本 & <b>zurück</b> ⚓",
    tokens: 24,
    seed: 77,
    extra: '{"align": "block"}',
  });
  await page.locator("#search").fill("ocean");
  await page.getByRole("option", { name: /^Ocean/ }).click();
  await page.getByLabel("Strength of Ocean").fill("5.5");
  await page.locator("[name=compare]").uncheck();
  await page.locator("#link").click();
  await page.getByText("Copied").waitFor();
  const link = await page.evaluate(() => navigator.clipboard.readText());
  assert.ok(link.startsWith(`${there.server.url}#`) && /^[\w-]+$/.test(link.split("#")[1]), link);
  await page.locator("#code summary").click();
  await page.getByText("JSON", { exact: true }).click();
  const request = JSON.parse(await page.locator("#snippet").textContent());
  await run(page);

  const other = await open(t, { fragment: `#${link.split("#")[1]}` });
  assert.equal(await other.locator(".lane").count(), 0, "a link fills in the form and runs nothing");
  await other.locator("#code summary").click();
  await other.getByText("JSON", { exact: true }).click();
  assert.deepEqual(JSON.parse(await other.locator("#snippet").textContent()), request);
  assert.deepEqual(request.steering, { amplify: [{ concept: 1, target: 5.5 }] });
  await run(other);
  assert.deepEqual(await tokens(other, "steered"), await tokens(page, "steered"));
});

test("a seed that was drawn goes along in links, code and files", async (t) => {
  const page = await open(t, { permissions: ["clipboard-read", "clipboard-write"] });
  await fill(page, { prompt: "The chef stirred the", tokens: 24, seed: "", extra: '{"align": "block"}' });
  const linked = async () => {
    await page.locator("#link").click();
    return JSON.parse(Buffer.from(new URL(page.url()).hash.slice(1), "base64url"));
  };
  const code = async () => {
    const all = {};
    for (const language of ["curl", "Python", "JSON"]) {
      await page.getByText(language, { exact: true }).click();
      all[language] = await page.locator("#snippet").textContent();
    }
    return all;
  };
  await page.locator("#code summary").click();
  // Nothing has been drawn: everybody draws for himself.
  assert.equal((await linked()).seed, "");
  assert.equal(JSON.parse((await code()).JSON).seed, undefined);

  await run(page);
  const [, seed] = (await page.locator("#status").textContent()).match(/Seed (\d+)/);
  const text = await tokens(page);
  assert.equal((await linked()).seed, seed);
  const { curl, Python, JSON: json } = await code();
  assert.equal(String(JSON.parse(json).seed), seed);
  for (const snippet of [curl, Python]) assert.ok(snippet.includes(`"seed": ${seed}`), snippet);
  const { stdout } = await exec("bash", ["-c", curl]);
  const trace = JSON.parse(stdout).trace.commits.sort((a, b) => a.position - b.position);
  assert.deepEqual(
    trace.map(({ text }) => text.trim()),
    text.map((token) => token.replace("↵", "\n").trim()),
  );
  const waiting = page.waitForEvent("download");
  await page.locator("#export").click();
  const file = JSON.parse(await readFile(await (await waiting).path(), "utf8"));
  assert.deepEqual([String(file.request.seed), file.complete], [seed, true]);
  const other = await open(t, { fragment: new URL(page.url()).hash });
  await run(other);
  assert.deepEqual(await tokens(other), text);

  // The field stays empty: the next run draws again, and what has been changed since has not run.
  assert.equal(await page.locator("[name=seed]").inputValue(), "");
  await page.locator("#prompt").fill("The chef stirred the soup");
  assert.equal((await linked()).seed, "");
  await run(page);
  const [, second] = (await page.locator("#status").textContent()).match(/Seed (\d+)/);
  assert.notEqual(second, seed);
  assert.equal((await linked()).seed, second);

  // A null among the other fields is no seed either.
  await fill(page, { prompt: "The chef stirred the", tokens: 8, seed: "", extra: '{"seed": null}' });
  await run(page);
  const [, third] = (await page.locator("#status").textContent()).match(/Seed (\d+)/);
  await linked();
  const last = await open(t, { fragment: new URL(page.url()).hash });
  await run(last);
  assert.match(await last.locator("#status").textContent(), new RegExp(`Seed ${third}\\.`));

  // Other fields that are no JSON do not keep a link from being made.
  await fill(page, { prompt: "The chef stirred the", tokens: 8, seed: "", extra: "{" });
  assert.deepEqual((await linked()).extra, "{");
});

test("a link of a stranger can do no more than fill in the form", async (t) => {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const strange = {
    prompt: "<img src=x onerror=alert(1)>",
    chips: [{ id: 2, name: "<b>Space</b>", strength: 1e9 }, { id: "x" }, null],
    messages: "no",
    seed: 3,
    compare: "yes",
    mode: "chat",
    __proto__: { polluted: 1 },
  };
  const page = await open(t, { fragment: `#${encode(strange)}` });
  assert.equal(await page.locator("#prompt").inputValue(), strange.prompt);
  assert.equal(await page.locator(".chip").count(), 1);
  assert.equal(await page.locator(".chip-name").textContent(), "<b>Space</b>");
  assert.equal(await page.getByLabel("Strength of <b>Space</b>").inputValue(), "8");
  assert.ok(await page.locator("#prompt").isVisible(), "this model does not chat");
  for (const broken of ["#%%%", "#e30", "#bnVsbA", `#${encode([1])}`, "#x"]) {
    const page = await open(t, { fragment: broken });
    assert.ok(await page.locator("#run").isVisible(), broken);
  }
});

test("the code that is shown runs and answers with what the page shows", async (t) => {
  const page = await open(t, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.locator("#prompt").fill('The neighbour\'s "table" \\ $HOME `moved`.');
  await run(page);
  // The page shows ends of chunks, which are no part of a result's text.
  const words = (await tokens(page, "steered")).filter((token) => token !== "<|endofchunk|>");
  const shown = words.map((token) => token.replace("↵", "\n")).join("");
  const letters = (text) => text.replaceAll(/\s/g, "");
  await page.locator("#code summary").click();
  for (const [language, command] of [
    ["curl", "bash"],
    ["Python", "python3"],
  ]) {
    await page.getByText(language, { exact: true }).click();
    await page.locator("#copy").click();
    await page.getByText("Copied").waitFor();
    const code = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(code, await page.locator("#snippet").textContent());
    const { stdout } = await exec(command, ["-c", code]);
    assert.equal(letters(JSON.parse(stdout).steered.text), letters(shown), language);
    await page.waitForFunction(() => document.querySelector("#copy").textContent === "Copy");
  }
  await accessible(page);
  await shot(page, "code", { fullPage: true });
});

test("the exported file holds request, results and what steering did", async (t) => {
  const page = await open(t);
  await run(page);
  const waiting = page.waitForEvent("download");
  await page.locator("#export").click();
  const download = await waiting;
  assert.equal(download.suggestedFilename(), "steerling.json");
  const file = JSON.parse(await readFile(await download.path(), "utf8"));
  assert.equal(file.endpoint, "/steer");
  assert.equal(file.request.prompt, "The neighbour moved the table.");
  assert.deepEqual(file.results.map(({ lane }) => lane).sort(), ["default", "steered"]);
  for (const { result } of file.results) {
    assert.equal(result.token_ids.length, 32);
    assert.equal(result.trace.commits.length, 32);
    assert.equal(result.attribution.tokens.length, 32);
  }
  assert.ok(file.summary.effect.changed_fraction > 0);
});
