// Runs that break off: they never look finished, and can be run again. Requests that are rejected: they take nothing away.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { accessible, done, fill, run, serve, shot, slowModel, tokens, world } from "./support.js";

const { open } = world();
const slow = await slowModel();

/** Everything that tells a text from a beginning of one. */
async function looksIncomplete(page, { reached, planned, status = "Connection lost" }) {
  const sentence = `${status} after step ${reached} of ${planned}: the text is incomplete`;
  await page.waitForFunction((sentence) => document.querySelector("#status").textContent === sentence, sentence);
  await page.waitForFunction(() => document.querySelector("#lanes").getAttribute("aria-busy") === "false");
  assert.equal(await page.locator("#step").getAttribute("max"), String(planned));
  assert.equal(await page.locator("#step-value").textContent(), `${reached} / ${planned}`);
  // Beyond what there is there is nothing to be seen.
  await page.locator("#step").fill(String(planned));
  await page.waitForFunction(
    (shown) => document.querySelector("#step-value").textContent === shown,
    `${reached} / ${planned}`,
  );
  assert.ok((await page.locator(".lane.incomplete .token.masked").count()) > 0);
  for (const facts of await page.locator(".lane.incomplete .facts").allTextContents())
    assert.match(facts, /^incomplete · \d+ of \d+ tokens$/);
  assert.ok(await page.locator("#effect").isHidden());
  const waiting = page.waitForEvent("download");
  await page.locator("#export").click();
  const file = JSON.parse(await readFile(await (await waiting).path(), "utf8"));
  assert.equal(file.complete, false);
  assert.ok(file.results.some(({ result }) => result.complete === false && result.text === undefined));
  const copy = page.locator(".lane.incomplete").getByRole("button", { name: "Copy incomplete text" }).first();
  await copy.click();
  await page.getByText("Copied").waitFor();
  assert.ok((await page.evaluate(() => navigator.clipboard.readText())).includes("░"));
  assert.ok(await page.getByRole("button", { name: "Run again" }).isVisible());
}

for (const [endpoint, steer] of [
  ["generate", false],
  ["steer", true],
])
  test(`a server that is killed in the middle of a stream of /${endpoint}`, async (t) => {
    const own = await serve("--model", slow);
    let stopped = false;
    const stop = () => (stopped ? null : ((stopped = true), own.stop("SIGKILL")));
    t.after(stop);
    const page = await open(t, {
      at: own.url,
      expectRefusals: true,
      permissions: ["clipboard-read", "clipboard-write"],
    });
    const extra = steer
      ? '{"steering": {"amplify": [{"concept": 1, "target": 4}]}, "compare": true, "sweep": [2]}'
      : "";
    await fill(page, { prompt: "The chef stirred the", tokens: 4000, seed: "", extra });
    await page.locator("#run").click();
    await page.waitForFunction(() => document.querySelectorAll(".token[role]").length > 10);
    await stop();
    await page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Connection lost"));
    const [, reached] = (await page.locator("#status").textContent()).match(/step (\d+)/);
    assert.ok(Number(reached) >= 10 / (steer ? 3 : 1) && Number(reached) < 4000);
    await looksIncomplete(page, { reached, planned: 4000 });
    assert.ok(await page.locator("#error").isHidden(), "the loss is told once");
    assert.equal(await page.locator(".lane").count(), steer ? 3 : 1);
    await accessible(page);
    await page.evaluate(() => scrollTo(0, 0));
    await shot(page, `lost-${endpoint}`);

    // The server is still away: what there is stays.
    const before = await tokens(page, steer ? "steered" : "text");
    await page.getByRole("button", { name: "Run again" }).click();
    await page.locator("#error").waitFor();
    assert.match(await page.locator("#error").textContent(), /cannot be reached/);
    assert.deepEqual(await tokens(page, steer ? "steered" : "text"), before);
    assert.match(await page.locator("#status").textContent(), /^Connection lost/);
    assert.ok(await page.getByRole("button", { name: "Run again" }).isVisible());
  });

/** A stream up to the tenth step of any variant; `steps` are those taken by each of its records. */
function upToStepTen(stream) {
  const records = stream.split("\n\n");
  const steps = records.map((record) =>
    record.startsWith("event: block") ? JSON.parse(record.slice(record.indexOf("data:") + 5)).step + 1 : 0,
  );
  const end = steps.findIndex((step) => step >= 10) + 1;
  return { head: records.slice(0, end).join("\n\n") + "\n\n", steps: steps.slice(0, end) };
}

const fault = { error: { code: "deadline_exceeded", message: "out of time", param: null, request_id: "r-9" } };
const CUTS = {
  "at the end of an event": (head) => head,
  "in the middle of an event": (head) => head.slice(0, -30),
  "with JSON that breaks off": (head) => `${head}event: block\ndata: {"block":0,"ste\n\n`,
  "with an error of the server": (head) => `${head}event: error\ndata: ${JSON.stringify(fault)}\n\n`,
};

for (const [how, cut] of Object.entries(CUTS))
  for (const endpoint of ["generate", "steer"])
    test(`a stream of /${endpoint} that ends ${how}`, async (t) => {
      const page = await open(t, { permissions: ["clipboard-read", "clipboard-write"] });
      const extra =
        endpoint === "steer" ? '{"steering": {"amplify": [{"concept": 2}]}, "compare": true, "sweep": [0.5]}' : "";
      await fill(page, { prompt: "The chef stirred the", tokens: 64, seed: "", extra });
      let reached, seed;
      await page.route(`**/${endpoint}`, async (route) => {
        const whole = await (await route.fetch()).text();
        const { head, steps } = upToStepTen(whole);
        seed = JSON.parse(whole.match(/"seed":(\d+)/)[1]);
        reached = Math.max(...(how === "in the middle of an event" ? steps.slice(0, -1) : steps));
        await route.fulfill({ contentType: "text/event-stream", body: cut(head) });
      });
      await page.locator("#run").click();
      await page.waitForFunction(() => /after step \d+ of 64/.test(document.querySelector("#status").textContent));
      const told = how.startsWith("with an error");
      const status = told ? "Ended by the server" : "Connection lost";
      await looksIncomplete(page, { reached, planned: 64, status });
      assert.equal(await page.locator("#error").isVisible(), told);
      if (told) assert.match(await page.locator("#error").textContent(), /out of time.*deadline_exceeded.*r-9/);
      await accessible(page);

      // Again, this time to the end, with the seed that was drawn.
      await page.unroute(`**/${endpoint}`);
      const request = page.waitForRequest(`**/${endpoint}`);
      await page.getByRole("button", { name: "Run again" }).click();
      assert.equal((await request).postDataJSON().seed, seed);
      await done(page);
      assert.equal(await page.locator(".incomplete").count(), 0);
      assert.ok(await page.locator("#again").isHidden());
      assert.ok(await page.locator("#error").isHidden());
      assert.equal(await page.locator(".token.masked").count(), 0);
    });

test("of two variants, one has ended; of all, the comparison is missing", async (t) => {
  const page = await open(t);
  await page.locator("[name=max_new_tokens]").fill("8");
  for (const [until, sentence] of [
    ["event: done", "Connection lost after step 8 of 8: the text is incomplete"],
    ["event: summary", "Connection lost after step 8 of 8: the comparison is incomplete"],
  ]) {
    await page.route("**/steer", async (route) => {
      const whole = await (await route.fetch()).text();
      await route.fulfill({ contentType: "text/event-stream", body: whole.slice(0, whole.lastIndexOf(until)) });
    });
    await page.locator("#run").click();
    await page.waitForFunction((sentence) => document.querySelector("#status").textContent === sentence, sentence);
    assert.equal(await page.locator(".lane.incomplete").count(), until === "event: done" ? 1 : 0);
    await page.unroute("**/steer");
  }
});

const error = (code, param) => ({ error: { code, message: `because of ${code}`, param, request_id: "r-1" } });
const html = { contentType: "text/html", body: "<html><h1>Bad gateway</h1></html>" };
/** What comes instead of events, what is told of it, and whether another attempt may help. */
const INSTEAD = {
  422: [{ status: 422, json: error("invalid_request", "seed") }, /because of invalid_request/, false],
  429: [
    { status: 429, json: error("overloaded"), headers: { "retry-after": "7" } },
    /overloaded.*Retry after7 s/,
    true,
  ],
  503: [{ status: 503, json: error("not_ready") }, /not_ready/, true],
  "a page with status 502": [{ status: 502, ...html }, /something other than the server answered: 502/, true],
  "a page with status 200": [
    { status: 200, ...html },
    /something other than the server answered: 200.*without text\/event-stream/,
    true,
  ],
  "an error in another shape": [{ status: 502, json: { error: "upstream" } }, /something other than the server/, true],
  "a stream without events": [
    { contentType: "text/event-stream", body: ": ping\n\n" },
    /the connection was lost/,
    true,
  ],
  "no byte at all": [null, /cannot be reached/, true],
};

for (const [what, [answer, told, passing]] of Object.entries(INSTEAD))
  test(`a request that is answered by ${what} leaves the result before it alone`, async (t) => {
    const page = await open(t, { expectRefusals: true });
    await fill(page, { prompt: "The chef stirred the", tokens: 16 });
    const reply = (route) => (answer ? route.fulfill(answer) : route.abort());
    // With nothing to keep, first.
    await page.route("**/generate", reply);
    await page.locator("#run").click();
    await page.locator("#error").waitFor();
    assert.match(await page.locator("#error").textContent(), told);
    assert.equal(await page.locator("#status").textContent(), "");
    assert.equal(await page.locator("#again").isVisible(), passing);
    assert.ok(await page.locator("#empty").isVisible());
    await page.unroute("**/generate");

    await run(page);
    await page.locator('.token[data-position="6"]').click();
    await page.locator("#step").fill("12");
    const state = () =>
      page.evaluate(() => [
        document.querySelector("#lanes").innerText,
        document.querySelector("#inspector").innerText,
        document.querySelector(".token.selected").dataset.position,
        document.querySelector("#step-value").textContent,
      ]);
    await page.waitForFunction(() => document.querySelector("#step-value").textContent === "12 / 16");
    const [before, status] = [await state(), await page.locator("#status").textContent()];
    let answerIt;
    const held = new Promise((resolve) => (answerIt = resolve));
    await page.route("**/generate", async (route) => (await held, reply(route)));
    await page.locator("#run").click();
    await page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Waiting"));
    assert.deepEqual(await state(), before, "until the first event");
    answerIt();
    await page.locator("#error").waitFor();
    assert.deepEqual(await state(), before);
    assert.equal(await page.locator("#status").textContent(), status);
    assert.equal(await page.locator("#again").isVisible(), passing);
    await accessible(page);
    if (what === "429") await shot(page, "rejected");
    await page.unroute("**/generate");

    await run(page);
    assert.ok(await page.locator("#error").isHidden());
    assert.equal(await page.locator(".token.selected").count(), 0, "the first event of another run begins anew");
    assert.match(await page.locator("#inspector").textContent(), /Click a token/);
  });
