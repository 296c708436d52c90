/** How the chat looks and behaves: the element's attributes, then the project's settings, then the texts. */

import type { Texts } from "../language/language.ts";
import type { Appearance } from "../live/types.ts";

export interface Options {
  name: string;
  logo: string | null;
  title: string;
  greeting: string;
  examples: string[];
  reasons: { up: [string, string][]; down: [string, string][] };
  accent: string | null;
  consent: "on" | "ask" | "off";
  choices: number;
  compareEvery: number;
  tone: boolean;
  card: string | null;
}

const UP = ["correct", "concise", "detailed", "friendly", "clear", "fun"];
const DOWN = ["wrong", "too-long", "too-short", "cold", "gushing", "unclear", "off-topic"];
const CONSENT = ["on", "ask", "off"] as const;
const MAX_CHOICES = 4;
const COMPARE_EVERY = 5;

/** `attribute` returns an attribute's value, or null. Lists are separated by `|`; a reason is `slug` or `slug:Label`. */
export function options(
  attribute: (name: string) => string | null,
  project: Appearance,
  texts: Texts,
): Options {
  const list = (name: string): string[] | undefined =>
    attribute(name)
      ?.split("|")
      .map((each) => each.trim())
      .filter(Boolean);
  const reasons = (
    name: string,
    own: Record<string, string> | undefined,
    ours: string[],
  ): [string, string][] => {
    const written = list(name) ?? (own ? null : ours);
    return written ? written.map((each) => reason(each, texts)) : Object.entries(own ?? {});
  };
  const number = (name: string, otherwise: number): number => {
    const value = Number(attribute(name) ?? Number.NaN);
    return Number.isInteger(value) && value >= 0 ? value : otherwise;
  };
  const consents = [attribute("consent"), project.consent];
  const greeting = attribute("greeting") ?? project.greeting;
  return {
    name: attribute("name") ?? project.name ?? "Hearken",
    logo: attribute("logo") ?? project.logo ?? null,
    title: greeting ?? texts.title,
    greeting: greeting ? "" : texts.greeting,
    examples: list("examples") ?? project.examples ?? texts.examples,
    reasons: {
      up: reasons("reasons-up", project.reasons?.up, UP),
      down: reasons("reasons-down", project.reasons?.down, DOWN),
    },
    accent: attribute("accent") ?? project.accent ?? null,
    consent: CONSENT.findLast((each) => consents.includes(each)) ?? "on", // the stricter one
    choices: Math.min(MAX_CHOICES, Math.max(2, number("choices", 2))),
    compareEvery: number("compare-every", COMPARE_EVERY),
    tone: (attribute("tone") ?? (project.tastes ? "ask" : "off")) !== "off",
    card: project.card ?? null,
  };
}

function reason(written: string, texts: Texts): [string, string] {
  const [slug = "", label] = written.split(":").map((each) => each.trim());
  return [slug, label ?? texts.reasons[slug] ?? slug];
}
