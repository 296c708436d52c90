/** The inline editor edits a reply's text. */

import { button, h } from "./dom.js";

/** Returns a form with the reply's text; it calls `close` with the new text, or with null when cancelled. */
export function editor(text, close) {
  const input = h("textarea", {
    "data-key": "editor",
    "aria-label": "How the reply should have been",
    "aria-describedby": "editor-hint",
  });
  input.value = text;
  const fit = () => {
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight + 2}px`;
  };
  const save = () => (input.value.trim() ? close(input.value.trim()) : input.focus());
  const keys = (event) => {
    if (event.key === "Escape") close(null);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
  };
  input.addEventListener("input", fit);
  requestAnimationFrame(fit);
  return h(
    "form",
    { class: "editor", on: { keydown: keys, submit: (event) => (event.preventDefault(), save()) } },
    input,
    h(
      "div",
      { class: "editor-end" },
      h("span", { id: "editor-hint", class: "keys" }, "Write it as it should have been. Ctrl+Enter saves, Escape leaves it."),
      button("quiet", "cancel", () => close(null), {}, "Cancel"),
      h("button", { type: "submit", class: "solid", "data-key": "save" }, "Save"),
    ),
  );
}
