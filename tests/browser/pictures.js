// The pictures of the README and the documentation, taken anew: `node pictures.js` after a release build.

import path from "node:path";
import { chromium } from "playwright-core";
import { FLAGS, ROOT, done, serve } from "./support.js";

const server = await serve();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

async function picture(name, colorScheme, act) {
  const page = await browser.newPage({ viewport: { width: 1320, height: 775 }, colorScheme });
  await page.goto(server.url);
  await page.locator(".chip").first().waitFor();
  await page.locator("#run").click();
  await done(page);
  await act(page);
  // No focus ring, no hovered button.
  await page.evaluate(() => document.activeElement.blur());
  await page.mouse.move(0, 0);
  await page.waitForTimeout(400);
  await page.screenshot({ path: path.join(ROOT, "docs/images", `${name}.png`) });
}

await picture("playground", "light", async (page) => {
  await page.locator('[data-lane="steered"] .token[role]', { hasText: "telescope" }).click();
  await page.getByRole("button", { name: "This token", exact: true }).click();
  await page.locator(".heat .tokens").waitFor();
});
await picture("unmasking", "dark", (page) => page.locator("#step").fill("23"));
await browser.close();
await server.stop();
