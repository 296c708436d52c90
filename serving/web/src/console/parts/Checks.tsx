import type { Check } from "../types";

const MARKS = { good: "✓", near: "~", bad: "✕", unknown: "?" };
const SAID = {
  good: "within the limit",
  near: "near the limit",
  bad: "beyond the limit",
  unknown: "not known",
};

/** The checks of the gate: each figure beside its limit. */
export function Checks({ checks }: { checks: Check[] }) {
  if (!checks.length) return <p class="quiet">The gate left no figures.</p>;
  return (
    <ul class="checks">
      {checks.map((check) => (
        <li key={check.name} class={check.state}>
          <span class="mark" role="img" aria-label={SAID[check.state]}>
            {MARKS[check.state]}
          </span>
          <span class="name">{check.name}</span>
          <span class="found">{check.found}</span>
          <span class="limit">limit: {check.limit}</span>
        </li>
      ))}
    </ul>
  );
}
