/** Colours code by highlight.js, in the languages that chats show most. */

import DOMPurify from "dompurify";
import highlight from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import css from "highlight.js/lib/languages/css";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const MAX_LENGTH = 20_000; // characters
const LANGUAGES = {
  bash,
  c,
  css,
  go,
  java,
  javascript,
  json,
  markdown,
  python,
  rust,
  sql,
  typescript,
  xml,
  yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) highlight.registerLanguage(name, language);

/** Colours a code element whose language is known. */
export function paint(code: HTMLElement, language: string): void {
  const text = code.textContent ?? "";
  if (!highlight.getLanguage(language) || text.length > MAX_LENGTH) return;
  const spans = highlight.highlight(text, { language, ignoreIllegals: true }).value;
  const coloured = DOMPurify.sanitize(spans, {
    ALLOWED_TAGS: ["span"],
    ALLOWED_ATTR: ["class"],
    RETURN_DOM_FRAGMENT: true,
  });
  code.replaceChildren(coloured);
}
