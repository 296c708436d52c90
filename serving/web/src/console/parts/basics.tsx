import type { ComponentChildren } from "preact";
import type { Loaded } from "../data";
import { href } from "../place";
import type { Share } from "../types";
import { percent, policyName } from "../words";
import { Problem } from "./fields";

type Tone = "good" | "near" | "bad" | "plain" | "accent";

export function Badge({ tone = "plain", children }: { tone?: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

const STATES: Record<string, [Tone, string]> = {
  live: ["good", "live"],
  canary: ["accent", "canary"],
  published: ["plain", "waits"],
  retired: ["plain", "retired"],
  rolled_back: ["bad", "taken back"],
  rejected: ["bad", "rejected"],
  running: ["accent", "running"],
  promoted: ["good", "promoted"],
  ended: ["plain", "ended"],
  failed: ["bad", "failed"],
  skipped: ["plain", "skipped"],
};

export function State({ of, after }: { of: string; after?: boolean }) {
  const [tone, word] = STATES[of] ?? ["plain", of];
  return <Badge tone={tone}>{of === "published" && after ? "published" : word}</Badge>;
}

export function PolicyLink({ id }: { id: string }) {
  return (
    <a class="id" href={href(["policies", id])}>
      {policyName(id)}
    </a>
  );
}

/** Who answers, as one bar with its legend. */
export function Shares({ shares }: { shares: Share[] }) {
  return (
    <div class="shares">
      <div class="bar" aria-hidden="true">
        {shares.map((each) => (
          <span key={each.policy} class={each.role} style={{ flexGrow: each.share }} />
        ))}
      </div>
      <ul>
        {shares.map((each) => (
          <li key={each.policy}>
            <i class={`dot ${each.role}`} aria-hidden="true" />
            <b>{percent(each.share, each.share < 0.1 ? 1 : 0)}</b> <PolicyLink id={each.policy} />{" "}
            <span class="quiet">{each.role === "holdback" ? "kept to compare with" : each.role}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** A share with its interval, on a line from 0 to 1. */
export function Interval({ value, low, high }: { value: number; low: number; high: number }) {
  return (
    <span
      class="interval"
      role="img"
      aria-label={`${percent(value)}, between ${percent(low)} and ${percent(high)}`}
    >
      <span class="range" style={{ left: percent(low, 1), width: percent(high - low, 1) }} />
      <span class="point" style={{ left: percent(value, 1) }} />
    </span>
  );
}

/** What is shown while nothing was read, or where reading failed. */
export function Waiting<T>({ on, children }: { on: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      <Problem error={on.error}>
        {" "}
        <button type="button" onClick={on.reload}>
          Try again
        </button>
      </Problem>
      {on.data === null ? !on.error && <p class="quiet loading">Reading…</p> : children(on.data)}
    </>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

/** A table that scrolls sideways by itself where it is wider than the screen. */
export function Table({
  label,
  head,
  children,
}: {
  label: string;
  head: string[];
  children: ComponentChildren;
}) {
  return (
    <div class="table" tabIndex={0} role="group" aria-label={label}>
      <table>
        <thead>
          <tr>
            {head.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}
