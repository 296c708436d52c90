/** Texts that the visitor takes along, by the browser or by hand. */

import type { Texts } from "../language/language.ts";

const PRESS = 300; // milliseconds; a button that is pressed next to it stays under the finger meanwhile

/**
 * Copies a text. Where the browser forbids the page to (a frame of another site, a page without https), the text is
 * there to be copied by hand. Returns whether it was copied.
 */
export async function copyText(text: string, place: HTMLElement, texts: Texts): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    selectText(text, place, texts.copyByHand);
    return false;
  }
}

/** Lays a text selected in a field at the end of `place`, until the visitor leaves it; `said` is the field's label. */
export function selectText(text: string, place: HTMLElement, said: string): void {
  const field = document.createElement("textarea");
  field.className = "comment";
  field.readOnly = true;
  field.dir = "auto";
  field.value = text;
  const label = document.createElement("label");
  label.className = "by-hand";
  label.dir = "auto";
  label.append(said, field);
  field.addEventListener("blur", () => setTimeout(() => label.remove(), PRESS));
  place.append(label);
  field.select();
  field.focus();
}
