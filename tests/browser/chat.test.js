// Conversations, with a checkpoint that has the chat tokens.

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { ROOT, accessible, run, shot, world } from "./support.js";

// The demo model with three of its ids named as chat tokens: its answers are no answers, but the protocol is there.
const model = await mkdtemp(path.join(os.tmpdir(), "steerling-chat-"));
await cp(path.join(ROOT, "models/steerling-demo"), model, { recursive: true });
const config = JSON.parse(await readFile(path.join(model, "config.json"), "utf8"));
Object.assign(config, { start_header_id: 1688, end_header_id: 1689, eot_id: 1690 });
await writeFile(path.join(model, "config.json"), JSON.stringify(config));
after(() => rm(model, { recursive: true }));

const { open } = world("--model", model);

test("a conversation is held turn by turn", async (t) => {
  const page = await open(t);
  await page.getByText("Chat", { exact: true }).click();
  assert.ok(await page.locator("#prompt").isHidden());
  await page.getByLabel("Message 1", { exact: true }).fill("The chef stirred the soup.");
  const first = page.waitForRequest("**/steer");
  await run(page);
  assert.deepEqual((await first).postDataJSON().messages, [{ role: "user", content: "The chef stirred the soup." }]);
  await accessible(page);
  await page.locator('[data-lane="steered"]').getByRole("button", { name: "Reply" }).click();
  await page.keyboard.type("And then?");
  const second = page.waitForRequest("**/steer");
  await page.keyboard.press("Control+Enter");
  const { messages } = (await second).postDataJSON();
  assert.deepEqual(
    messages.map(({ role }) => role),
    ["user", "assistant", "user"],
  );
  assert.ok(messages[1].content.length > 10);
  assert.equal(messages[2].content, "And then?");
  await page.getByRole("button", { name: "Remove message 2" }).click();
  await page.getByRole("button", { name: "Add a message" }).click();
  await page.getByLabel("Role of message 1").selectOption("system");
  await page.locator("#code summary").click();
  await page.getByText("JSON", { exact: true }).click();
  const request = JSON.parse(await page.locator("#snippet").textContent());
  assert.deepEqual(
    request.messages.map(({ role }) => role),
    ["system", "user", "assistant"],
  );
  await shot(page, "chat", { fullPage: true });
});
