// The request as the user edits it.

import { byId, h } from "./dom.js";
import { Chips, Search } from "./chips.js";
import { consent } from "./consent.js";
import { normalize } from "./request.js";

const FIELDS = ["prompt", "max_new_tokens", "seed", "steps", "temperature", "top_p", "repetition_penalty", "extra"];
const CHECKS = ["compare", "explain"];

export class Form {
  constructor(changed) {
    this.form = byId("form");
    this.messages = [];
    this.can = () => false;
    this.changed = changed;
    this.chips = new Chips(changed);
    this.search = new Search((concept) => this.chips.add(concept, this.form.elements.direction.value));
    this.form.addEventListener("input", () => {
      this.show();
      this.changed();
    });
    byId("add-message").addEventListener("click", () => {
      const last = this.messages.at(-1)?.role;
      this.messages.push({ role: last === "user" ? "assistant" : "user", content: "" });
      this.drawMessages();
      byId("messages").lastElementChild.querySelector("textarea").focus();
      this.changed();
    });
  }

  /** What this model can do decides what is offered; what is not offered is not asked for either. */
  offer(capabilities) {
    this.can = (what) => capabilities.includes(what);
    byId("mode").hidden = !this.can("chat");
    byId("concepts-section").hidden = !this.can("steer");
    byId("explain").hidden = !this.can("attribute");
    this.show();
  }

  mode() {
    return this.can("chat") ? this.form.elements.mode.value : "prompt";
  }

  read() {
    const { elements } = this.form;
    const chips = this.can("steer") ? this.chips.items : [];
    const request = { mode: this.mode(), messages: this.messages, chips };
    for (const name of FIELDS) request[name] = elements[name].value;
    for (const name of CHECKS) request[name] = elements[name].checked;
    request.explain &&= this.can("attribute");
    return normalize(request);
  }

  write(request) {
    const { elements } = this.form;
    for (const name of FIELDS) elements[name].value = request[name];
    for (const name of CHECKS) elements[name].checked = request[name];
    elements.mode.value = request.mode;
    this.messages = request.messages;
    this.chips.set(request.chips);
    this.drawMessages();
    this.show();
    this.changed();
  }

  /** Whether the concepts may be steered; asks about those that are not meant to be. */
  async consent() {
    const given = !this.can("steer") || (await consent(this.chips.items));
    this.changed();
    return given;
  }

  show() {
    const chat = this.mode() === "chat";
    byId("chat-section").hidden = !chat;
    byId("prompt-section").hidden = chat;
    this.form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  }

  drawMessages() {
    const row = (message, i) => {
      const roles = ["system", "user", "assistant"].map((role) =>
        h("option", { selected: role === message.role }, role),
      );
      const role = h("select", { "aria-label": `Role of message ${i + 1}` }, roles);
      const content = h("textarea", { rows: 2, dir: "auto", "aria-label": `Message ${i + 1}` });
      content.value = message.content;
      role.addEventListener("input", () => (message.role = role.value));
      content.addEventListener("input", () => (message.content = content.value));
      const remove = () => {
        this.messages.splice(i, 1);
        this.drawMessages();
        this.changed();
      };
      return h(
        "li",
        role,
        h("button.remove", { "aria-label": `Remove message ${i + 1}`, onclick: remove }, "×"),
        content,
      );
    };
    byId("messages").replaceChildren(...this.messages.map(row));
  }

  /** Goes on with a conversation: what the model said, and room for what the user says next. */
  reply(answer) {
    this.messages.push({ role: "assistant", content: answer }, { role: "user", content: "" });
    this.drawMessages();
    this.changed();
    byId("messages").lastElementChild.querySelector("textarea").focus();
  }

  /** Marks the field that the server names: `max_new_tokens`, `steering.amplify[0].concept`. */
  blame(param) {
    const name = { messages: "prompt", steering: "search" }[param.split(/[.[]/)[0]] ?? param.split(/[.[]/)[0];
    const field = this.form.elements[name];
    if (!(field instanceof HTMLElement)) return;
    field.closest("details")?.setAttribute("open", "");
    field.setAttribute("aria-invalid", "true");
  }
}
