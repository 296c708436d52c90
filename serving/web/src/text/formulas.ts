/** Draws LaTeX by KaTeX as MathML, which needs no style sheet and no fonts, and which screen readers read. */

import katex from "katex";

/** Replaces the LaTeX in each element; what is not LaTeX stays as it was written. */
export function draw(elements: HTMLElement[]): void {
  for (const element of elements) {
    const formula = element.textContent ?? "";
    const displayMode = element.classList.contains("display");
    const drawn = document.createElement("span");
    try {
      katex.render(formula, drawn, {
        displayMode,
        output: "mathml",
        strict: "ignore",
        trust: false,
        maxSize: 10,
      });
    } catch {
      continue;
    }
    drawn.querySelector("annotation")?.remove();
    element.replaceChildren(drawn);
    element.classList.add("drawn");
  }
}
