import type { Evidence, Metric } from "../types";
import { percent } from "../words";
import { Badge, Table } from "./basics";

const share = (value: number): string => percent(value, 1);
const times = (value: number): string => `${Math.exp(value).toFixed(2)}×`;

/** The name of each metric, how its difference is written, and its two sides where they are shares. */
const METRICS: Record<string, { name: string; written: (value: number) => string; sides: boolean }> = {
  approval: { name: "Thumbs up", written: points, sides: true },
  wins: { name: "Duels won", written: points, sides: true },
  holdback: { name: "Thumbs up, against the base", written: points, sides: true },
  regenerations: { name: "Asked for anew", written: points, sides: true },
  errors: { name: "Requests failed", written: points, sides: true },
  latency: { name: "Time to the end of a reply", written: times, sides: false },
  length: { name: "Length of a reply", written: times, sides: false },
};

function points(value: number): string {
  return `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)} points`;
}

/** What people did with a candidate's replies, against the policy that it is to replace. */
export function EvidenceView({ evidence }: { evidence: Evidence }) {
  const found = Object.entries(evidence.metrics);
  return (
    <div class="evidence">
      <p>{evidence.words}</p>
      {found.length > 0 && (
        <Table
          label="What people did with its replies"
          head={["What", "The candidate", "The other", "Difference", "Between", "People"]}
        >
          {found.map(([name, metric]) => (
            <Row key={name} name={name} metric={metric} />
          ))}
        </Table>
      )}
      <p class="quiet">
        {evidence.missing.length > 0 &&
          `Not known yet: ${evidence.missing.map((name) => METRICS[name]?.name ?? name).join(", ")}. `}
        The bounds hold at all times, however often one looks; each person counts once, and all whom no
        server names, in one network, as one.
      </p>
    </div>
  );
}

function Row({ name, metric }: { name: string; metric: Metric }) {
  const { name: words, written, sides } = METRICS[name] ?? { name, written: String, sides: true };
  return (
    <tr>
      <th scope="row">
        {words} {metric.harmed && <Badge tone="bad">worse</Badge>}
      </th>
      <td>{sides && share(metric.candidate)}</td>
      <td>{sides && share(metric.other)}</td>
      <td>
        <b>{written(metric.difference)}</b>
      </td>
      <td>
        {written(metric.low)} to {written(metric.high)}
      </td>
      <td>
        {metric.people} and {metric.other_people}
      </td>
    </tr>
  );
}
