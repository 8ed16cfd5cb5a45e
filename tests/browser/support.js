// A server of our own on loopback, a browser, and pages that must not complain.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import AxeBuilder from "@axe-core/playwright";
import { chromium } from "playwright-core";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
/** The program under test. */
export const PROGRAM = process.env.STEERLING ?? path.join(ROOT, "target/release/steerling");
/** A folder from which the page's files are read instead of from the program, to try changes without building it. */
const WEB = process.env.WEB;
/** Screenshots are kept here. */
const SHOTS = path.join(ROOT, "target/browser");
export const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** For whatever a page is waited for. */
export const PATIENCE_MS = 30_000;

/** Starts the program on a free port; resolves when it says where, and answers that it is ready. */
export const serve = (...flags) => start(flags, {});

/** The same with an API key, which everything asks for that is not open to all. */
export const serveWithKey = (key) => start([], { STEERLING_API_KEY: key });

async function start(flags, environment) {
  const server = spawn(PROGRAM, ["serve", "--host", "127.0.0.1", "--port", "0", ...flags], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, STEERLING_MODEL: undefined, ...environment },
  });
  const url = await new Promise((resolve, reject) => {
    let log = "";
    const read = (bytes) => {
      log += bytes;
      const address = log.match(/127\.0\.0\.1:[1-9]\d*/);
      if (address) resolve(`http://${address[0]}/`);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    server.on("error", reject);
    server.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${log}`)));
  });
  const started = Date.now();
  while (!(await fetch(`${url}health/ready`)).ok) {
    assert.ok(Date.now() - started < PATIENCE_MS, "the server does not become ready");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return {
    url,
    stop: (signal = "SIGTERM") =>
      new Promise((resolve) => (server.removeAllListeners("exit"), server.on("exit", resolve), server.kill(signal))),
  };
}

/** A model with random weights that takes about half a minute for 4,000 tokens; it goes with the tests of the file. */
export async function slowModel() {
  const model = path.join(await mkdtemp(path.join(os.tmpdir(), "steerling-slow-")), "model");
  execFileSync(PROGRAM, ["synthesize", "--preset", "tiny", "--out", model]);
  after(() => rm(path.dirname(model), { recursive: true }));
  return model;
}

/** One server and one browser for the tests of a file; `open` gives a page of its own to each. */
export function world(...flags) {
  const world = {};
  before(async () => {
    mkdirSync(SHOTS, { recursive: true });
    [world.server, world.browser] = await Promise.all([
      serve(...flags),
      chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS }),
    ]);
  });
  after(async () => {
    await world.browser?.close();
    await world.server?.stop();
  });
  world.open = (t, options) => open(world, t, options);
  return world;
}

/**
 * A page on the playground, ready for use. What it logs as an error, what it throws, and what it asks of another
 * address fails the test, except for refusals that the test provokes (`expectRefusals`).
 */
async function open(
  { browser, server },
  t,
  { at = server.url, fragment = "", expectRefusals, setUp, ...options } = {},
) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  if (WEB) await context.route(/\/(assets\/[\w.]+)?$/, (route) => fromDisk(route));
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    const refusal = expectRefusals && message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !refusal) complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(at) && !request.url().startsWith("blob:")) complaints.push(`asked ${request.url()}`);
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(complaints, []);
  });
  await setUp?.(page);
  await page.goto(at + fragment);
  await page.locator("#examples button").first().waitFor();
  // The first example or the link has arrived in the form.
  await page.waitForFunction(() => document.querySelector("#snippet").textContent !== "");
  return page;
}

/** For work on the page: a file as it is on disk, under the policy of the program. */
async function fromDisk(route) {
  const answer = await route.fetch();
  const name = route.request().url().split("/").at(-1) || "index.html";
  const types = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
  const headers = { ...answer.headers(), "content-type": types[name.split(".").at(-1)] };
  await route.fulfill({ status: 200, headers, body: readFileSync(path.join(WEB, name)) });
}

/** Runs what the form says and waits for the end; the view catches up with the stream. */
export async function run(page) {
  await page.locator("#run").click();
  await done(page);
}

export async function done(page) {
  await page.waitForFunction(() => {
    const [lanes, status] = ["#lanes", "#status"].map((id) => document.querySelector(id));
    return status.textContent.startsWith("Done") && lanes.getAttribute("aria-busy") === "false";
  });
}

/** Fills in the form without examples: no steering unless a test adds it. */
export async function fill(page, { prompt, tokens = 32, seed = 1, extra = "" }) {
  for (let chips = await page.locator(".chip").count(); chips > 0; chips--)
    await page.locator(".chip .remove").first().click();
  await page.locator("#prompt").fill(prompt);
  await page.locator("[name=max_new_tokens]").fill(String(tokens));
  await page.locator("[name=seed]").fill(String(seed));
  await page.locator("[name=extra]").evaluate((field, text) => {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }, extra);
}

export async function shot(page, name, options = {}) {
  // What sticks to the window's edge would otherwise lie across the middle of a whole page.
  if (options.fullPage) await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: path.join(SHOTS, `${name}.png`), ...options });
}

/** No accessibility rule of WCAG 2.2 AA or of good practice is broken. */
export async function accessible(page) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const told = violations.map(
    ({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).join("\n")}`,
  );
  assert.deepEqual(told, []);
}

/** Tokens of a lane as they are shown now; null is masked. */
export const tokens = (page, lane = "text") =>
  page
    .locator(`[data-lane="${lane}"] .token`)
    .evaluateAll((all) => all.map((token) => (token.hasAttribute("role") ? token.textContent : null)));
