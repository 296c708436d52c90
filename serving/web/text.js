/** Renders a reply's text as paragraphs and simple lists, and nothing else; text is never parsed as markup. */

import { h } from "./dom.js";

const BULLET = /^\s*[-*•]\s+(.*)$/;
const NUMBER = /^\s*(\d{1,3})[.)]\s+(.*)$/;

/** Replaces what `element` shows with `text`. */
export function showText(element, text) {
  const blocks = [];
  let open = null;
  for (const line of text.split("\n")) {
    const bullet = BULLET.exec(line);
    const number = bullet ? null : NUMBER.exec(line);
    const tag = bullet ? "ul" : number ? "ol" : "p";
    if (!line.trim()) {
      open = null;
      continue;
    }
    if (open?.localName !== tag) {
      open = h(tag, number ? { start: number[1] } : {});
      blocks.push(open);
    } else if (tag === "p") {
      open.append(h("br"));
    }
    if (tag === "p") open.append(line.trim());
    else open.append(h("li", {}, bullet ? bullet[1] : number[2]));
  }
  element.replaceChildren(...blocks);
}
