/**
 * Copies a text. Where the browser forbids the page to (a frame of another site, a page without https), the text lies
 * selected in a field at the end of `place`, until the visitor leaves it. Returns whether it was copied.
 */

import type { Texts } from "../language/language.ts";

const PRESS = 300; // milliseconds; a button that is pressed next to it stays under the finger meanwhile

export async function copyText(text: string, place: HTMLElement, texts: Texts): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.className = "comment";
    field.readOnly = true;
    field.dir = "auto";
    field.value = text;
    const label = document.createElement("label");
    label.className = "by-hand";
    label.dir = "auto";
    label.append(texts.copyByHand, field);
    field.addEventListener("blur", () => setTimeout(() => label.remove(), PRESS));
    place.append(label);
    field.select();
    field.focus();
    return false;
  }
}
