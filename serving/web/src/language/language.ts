/** Finds the language of the chat and loads its texts: English is there at once, others when they are needed. */

import { en, type Texts } from "./en.ts";

export type { Texts };

export interface Language {
  code: string;
  direction: "ltr" | "rtl";
  texts: Texts;
}

const OTHERS: Record<string, () => Promise<{ texts: Texts }>> = {
  de: () => import("./de.ts"),
  ar: () => import("./ar.ts"),
};
const RIGHT_TO_LEFT = new Set(["ar"]);

export const english: Language = { code: "en", direction: "ltr", texts: en };

/** Returns the first language that has texts: of what is asked for, the page's, the browser's, then English. */
export async function language(...asked: (string | null)[]): Promise<Language> {
  const page = document.documentElement.lang;
  for (const name of [...asked, page, ...navigator.languages]) {
    const code = name?.toLowerCase().split("-")[0];
    if (code === "en") return english;
    const load = code ? OTHERS[code] : undefined;
    if (!code || !load) continue;
    try {
      const { texts } = await load();
      return { code, direction: RIGHT_TO_LEFT.has(code) ? "rtl" : "ltr", texts };
    } catch {
      return english; // its file did not come; the chat is worth more than its language
    }
  }
  return english;
}

/** Formats a time: "14:02" today, "3 Mar, 14:02" on other days. */
export function when(time: string, code: string): string {
  const then = new Date(time);
  const clock = new Intl.DateTimeFormat(code, { hour: "2-digit", minute: "2-digit" }).format(then);
  if (then.toDateString() === new Date().toDateString()) return clock;
  return `${new Intl.DateTimeFormat(code, { day: "numeric", month: "short" }).format(then)}, ${clock}`;
}

/** Returns the first words of a text, in quotation marks. */
export function quote(text: string, length = 40): string {
  return `“${shorten(text, length)}”`;
}

/** Returns the first words of a text, on one line. */
export function shorten(text: string, length: number): string {
  const line = text.replace(/\s+/g, " ").trim();
  const letters = [...line];
  return letters.length > length
    ? `${letters
        .slice(0, length - 1)
        .join("")
        .trimEnd()}…`
    : line;
}
