// What leaves the page: code to copy, the link, the exported file.

import { hasKey, url } from "./api.js";

/** The request in a language: `curl`, `python` or `json`. */
export function snippet(language, { path, body }) {
  return { curl, python, json }[language](url(path), body);
}

const json = (_, body) => JSON.stringify(body, null, 2);

/** For a POSIX shell. */
function curl(address, body) {
  const key = hasKey() ? ` \\\n  -H "authorization: Bearer $STEERLING_API_KEY"` : "";
  return `curl ${quoted(address)} \\\n  -H 'content-type: application/json'${key} \\\n  -d ${quoted(json(address, body))}`;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** With nothing but the standard library. */
function python(address, body) {
  const key = hasKey() ? `, "authorization": "Bearer " + os.environ["STEERLING_API_KEY"]` : "";
  return [
    `import json${hasKey() ? ", os" : ""}, urllib.request`,
    ``,
    `request = urllib.request.Request(`,
    `    ${JSON.stringify(address)},`,
    `    data=json.dumps(${literal(body, "    ")}).encode(),`,
    `    headers={"content-type": "application/json"${key}},`,
    `)`,
    `with urllib.request.urlopen(request) as answer:`,
    `    print(json.dumps(json.load(answer), indent=2))`,
  ].join("\n");
}

/** A JSON value as a Python literal. */
function literal(value, indent) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item) => literal(item, indent)).join(", ")}]`;
  const inner = `${indent}    `;
  const entries = Object.entries(value).map(
    ([name, item]) => `${inner}${JSON.stringify(name)}: ${literal(item, inner)},\n`,
  );
  return `{\n${entries.join("")}${indent}}`;
}

/** Copies if the browser lets us; says whether it did. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not allowed, or the page came over plain HTTP from another machine.
    return false;
  }
}

/** Offers a value as a file. */
export function download(name, value) {
  const file = new Blob([JSON.stringify(value, null, 2)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The download has its own handle on the blob once it has begun.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
