/**
 * Renders Markdown that nobody is trusted with: markdown-it without HTML, then DOMPurify, then links, tables, code and
 * formulas as DOM. Text is never parsed as markup outside these two libraries.
 */

import { tex } from "@mdit/plugin-tex";
import DOMPurify from "dompurify";
import MarkdownIt from "markdown-it";
import type { Texts } from "../language/language.ts";
import { copyText } from "./copy.ts";

const MAX_LENGTH = 100_000; // characters; longer text is shown as it is
const BLOCKS = "p, li, h3, h4, h5, h6, td, th, blockquote";
const FENCE = /^\s*(```|~~~)/;
const ITEM = /^\s*([-*+]|\d{1,9}[.)])\s/;
const ALLOWED = {
  ALLOWED_TAGS: [
    "a",
    "blockquote",
    "br",
    "code",
    "em",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "span",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
  ],
  ALLOWED_ATTR: ["class", "href", "start"],
  ADD_URI_SAFE_ATTR: ["start"],
  ALLOWED_URI_REGEXP: /^https?:\/\//i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true }).use(tex, {
  delimiters: "all",
  render: (content: string, display: boolean) =>
    `<span class="math${display ? " display" : ""}">${markdown.utils.escapeHtml(content)}</span>`,
});
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
markdown.validateLink = (url) => /^https?:\/\//i.test(url.trim());
markdown.renderer.rules.image = (tokens, index) => {
  const token = tokens[index]!;
  const url = markdown.utils.escapeHtml(token.attrGet("src") ?? "");
  return `<a href="${url}">${markdown.utils.escapeHtml(token.content) || url}</a>`;
};
// The page has the first two levels, and a reply skips none.
markdown.core.ruler.push("heading_levels", (state) => {
  let level = 2;
  for (const token of state.tokens) {
    if (token.type === "heading_open") level = Math.min(6, level + 1, Number(token.tag[1]) + 2);
    if (token.type === "heading_open" || token.type === "heading_close") token.tag = `h${level}`;
  }
});

/** Returns the text as DOM. Formulas and the colours of code come later, where there are any. */
export function render(text: string, texts: Texts, whole: boolean): DocumentFragment {
  if (text.length > MAX_LENGTH) return plain(text);
  const fragment = DOMPurify.sanitize(markdown.render(endLists(text)), ALLOWED);
  for (const block of fragment.querySelectorAll<HTMLElement>(BLOCKS)) block.dir = "auto";
  for (const link of fragment.querySelectorAll("a")) {
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  for (const table of fragment.querySelectorAll("table")) scrolling(table, texts.table);
  for (const pre of fragment.querySelectorAll("pre")) codeBlock(pre, texts, whole);
  const formulas = [...fragment.querySelectorAll<HTMLElement>(".math")];
  if (formulas.length > 0 && whole) void import("./formulas.ts").then((math) => math.draw(formulas));
  return fragment;
}

/**
 * Puts an empty line after a list where the next line is not part of it. Models mean it so; in Markdown the line
 * would continue the last item.
 */
function endLists(text: string): string {
  let fenced = false;
  const lines = text.split("\n");
  return lines
    .flatMap((line, index) => {
      const fence = FENCE.test(line);
      if (fence) fenced = !fenced;
      const before = lines[index - 1] ?? "";
      const ends = !fenced && !fence && ITEM.test(before) && /^[^\s>|]/.test(line) && !ITEM.test(line);
      return ends ? ["", line] : [line];
    })
    .join("\n");
}

/** Returns the text without markup, as paragraphs of lines. */
export function plain(text: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  const paragraph = document.createElement("p");
  paragraph.className = "plain";
  paragraph.dir = "auto";
  paragraph.textContent = text;
  fragment.append(paragraph);
  return fragment;
}

/** Wraps what may be wider than the chat in a box that scrolls by keyboard too. */
function scrolling(element: HTMLElement, name: string): HTMLElement {
  const box = document.createElement("div");
  box.className = "scrolling";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", name);
  element.replaceWith(box);
  box.append(element);
  return box;
}

function codeBlock(pre: HTMLPreElement, texts: Texts, whole: boolean): void {
  const code = pre.querySelector("code");
  const language = /language-([\w+#-]{1,20})/.exec(code?.className ?? "")?.[1] ?? "";
  const name = document.createElement("span");
  name.textContent = language;
  const box = document.createElement("div");
  box.className = "code";
  box.dir = "ltr";
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy-code";
  copy.textContent = texts.copyCode;
  copy.addEventListener("click", async () => {
    if (await copyText(pre.textContent ?? "", box, texts)) copy.textContent = texts.copied;
  });
  const head = document.createElement("div");
  head.className = "code-head";
  head.append(name, copy);
  pre.replaceWith(box);
  box.append(head, pre);
  scrolling(pre, language || "code");
  if (code && language && whole)
    void import("./code_colours.ts").then((colours) => colours.paint(code, language));
}
