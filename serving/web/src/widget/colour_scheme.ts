/**
 * Gives an element the colours of what it stands in, by an attribute: the compiler of the styles puts other rules in the
 * place of `light-dark()`, which follow no rule that is added later.
 */

/** Sets `data-scheme` to `light` or `dark`; to neither where the page around has both forms, as the system likes it. */
export function followPage(element: HTMLElement): void {
  const around = getComputedStyle(element.parentElement ?? document.documentElement).colorScheme;
  const ofPage = document.querySelector<HTMLMetaElement>('meta[name="color-scheme"]')?.content ?? "";
  const said = around === "normal" ? ofPage : around;
  const [light, dark] = [said.includes("light"), said.includes("dark")];
  element.dataset.scheme = dark ? (light ? "both" : "dark") : "light";
}
