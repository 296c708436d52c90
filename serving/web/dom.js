/** DOM helpers build elements without HTML strings, so text is never parsed as markup. */

/** Returns an element. `attributes`: `class`, `on` ({event: listener}), booleans, the rest as they are. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Returns a button; `key` identifies it for the focus after a redraw. */
export function button(kind, key, click, attributes, ...children) {
  return h("button", { type: "button", class: kind, "data-key": key, on: { click }, ...attributes }, ...children);
}

/** Returns an icon, a symbol of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Announces text to screen readers (aria-live: polite). */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Formats a time: "14:02" today, "3 Mar, 14:02" on other days. */
export function when(time) {
  const then = new Date(time);
  const today = then.toDateString() === new Date().toDateString();
  return today ? clock.format(then) : `${date.format(then)}, ${clock.format(then)}`;
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Returns the first words of a text, in quotation marks. */
export function quote(text, length = 40) {
  const line = text.replace(/\s+/g, " ").trim();
  return `“${line.length > length ? `${line.slice(0, length - 1).trimEnd()}…` : line}”`;
}

/** Returns a random id. crypto.randomUUID exists only on https and localhost. */
export function randomId(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `${prefix}-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
