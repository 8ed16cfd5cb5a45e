// Building and finding elements. Whatever the server or a link says becomes a text node: nothing here parses HTML.

export const byId = (id) => document.getElementById(id);

/**
 * An element: `h("p.hint", {title: "why", onclick: run, "--share": 0.5}, "text", child)`, with or without attributes.
 * Attributes and children that are null or false are left out. Buttons do not submit.
 */
export function h(name, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length > 0) element.className = classes.join(" ");
  if (tag === "button") element.type = "button";
  const attributes = Object.getPrototypeOf(children[0] ?? "") === Object.prototype ? children.shift() : {};
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** A bar from -1 to 1; below zero it is hatched. The number stands beside it. */
export const track = (kind, share) =>
  h(
    "span",
    { class: share < 0 ? "track negative" : "track", "aria-hidden": "true" },
    h("span", { class: kind, "--share": Math.abs(share) }),
  );

/**
 * A token's text as shown: line ends, emptiness and bytes that are no character on their own can be seen; the space
 * before a word is left out.
 */
export function visible(text) {
  return (
    text
      .replace(/^ (?=\S)/, "")
      .replaceAll("\n", "↵")
      .replaceAll("\t", "⇥")
      .replaceAll("\uFFFD", "▯")
      .replace(/^ +$/, "␣") || "∅"
  );
}

/** The space before a word, which stands between tokens instead of inside one. */
export const gap = (text) => (/^ \S/.test(text) ? " " : "");

/** A number with its sign, as contributions are read. */
export function signed(value, digits = 2) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
}

export const percent = (value) => `${(100 * value).toFixed(value > 0 && value < 0.095 ? 1 : 0)} %`;

/** Calls `draw` at the next frame, once however often it is asked for. */
export function batched(draw) {
  let frame = 0;
  return () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
}

/** Opens a dialog; resolves with the value of the button that closes it, which is empty for Esc. */
export function ask(id) {
  const dialog = byId(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Says on the button itself, for a moment, what came of it. */
export function flash(button, text) {
  button.dataset.label ??= button.textContent;
  button.textContent = text;
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => (button.textContent = button.dataset.label), 1500);
}
