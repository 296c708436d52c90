/** The reasons that may be given for a vote, as buttons. */

import type { JSX } from "preact";

const MAX_REASONS = 8; // of one vote, as in the service

interface Props {
  named: [slug: string, label: string][];
  given: string[];
  toggle: (slug: string) => void;
}

export function ReasonChips({ named, given, toggle }: Props): JSX.Element {
  return (
    <>
      {named.map(([slug, label]) => (
        <button
          key={slug}
          class="chip"
          type="button"
          aria-pressed={given.includes(slug)}
          onClick={() => toggle(slug)}
        >
          <bdi>{label}</bdi>
        </button>
      ))}
    </>
  );
}

/** Returns the reasons with another one, or without it where it was given. */
export function toggled(given: string[], slug: string): string[] {
  const others = given.filter((each) => each !== slug);
  return others.length < given.length ? others : [...others, slug].slice(-MAX_REASONS);
}
