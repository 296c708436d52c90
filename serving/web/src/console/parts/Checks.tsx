import type { Check } from "../types";

const MARKS = { good: "✓", unknown: "~", refused: "✕", unjudged: "?" };
const SAID = {
  good: "within the limit",
  unknown: "cannot tell: within chance",
  refused: "refused: beyond the limit",
  unjudged: "not judged",
};

/** The checks of the gate: each figure beside its limit. */
export function Checks({ checks }: { checks: Check[] }) {
  if (!checks.length) return <p class="quiet">The gate left no figures.</p>;
  return (
    <ul class="checks">
      {checks.map((check) => (
        <li key={check.name} class={check.state}>
          <span class="mark" role="img" aria-label={SAID[check.state]} title={SAID[check.state]}>
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
