import { useData } from "../data";
import { type Place, replaceQuery } from "../place";
import type { Approval, Facets, Group } from "../types";
import { number, percent } from "../words";
import { Empty, Interval, Table, Waiting } from "./basics";
import { Chart, type Line } from "./Chart";

const MOST_LINES = 5;
const MOST_BANDS = 2; // more would hide each other

/** Approval over time by policy, reason or tag, with its intervals and the holdback beside. */
export function ApprovalView({ place, query }: { place: Place; query: string }) {
  const by = place.query.get("by") ?? "policy";
  const asked = new URLSearchParams(query);
  asked.delete("all");
  asked.set("by", by);
  const approval = useData<Approval>(`console/approval?${asked}`, ["votes"]);
  const facets = useData<Facets>("console/facets");
  const keys = [...new Set((facets.data?.tag ?? []).map(({ name }) => name.split("=", 1)[0] ?? ""))];
  return (
    <>
      <label class="by">
        By{" "}
        <select value={by} onChange={(event) => replaceQuery(place, { by: event.currentTarget.value })}>
          <option value="all">all together</option>
          <option value="policy">policy</option>
          <option value="reason">reason</option>
          {keys.map((key) => (
            <option key={key} value={`tag:${key}`}>
              tag {key}
            </option>
          ))}
        </select>
      </label>
      <Waiting on={approval}>{(shown) => <Shown approval={shown} />}</Waiting>
    </>
  );
}

function Shown({ approval }: { approval: Approval }) {
  const { groups, holdback } = approval;
  if (groups.length === 0)
    return <Empty>No thumbs match in this time. Without a time, the last 30 days are shown.</Empty>;
  const times = [
    ...new Set(
      [...groups, ...(holdback ? [holdback] : [])].flatMap((group) => group.steps.map((step) => step.at)),
    ),
  ].sort();
  const lines = groups.slice(0, MOST_LINES).map((group) => line(group, times, groups.length <= MOST_BANDS));
  if (holdback && !groups.some((group) => group.name === "p0")) {
    lines.push({ ...line({ ...holdback, name: "p0, the holdback" }, times, false), dashed: true });
  }
  return (
    <>
      {times.length > 1 && (
        <Chart
          label={`Approval by ${approval.step}, of ${lines.map((each) => each.label).join(", ")}; the figures are in the table below`}
          x={times.map((at) => new Date(at).getTime() / 1_000)}
          lines={lines}
          share
          times
        />
      )}
      <Table label="Approval" head={["Group", "Approval", "95% interval", "People", "Thumbs"]}>
        {groups.map((group) => (
          <Row key={group.name} group={group} />
        ))}
        {holdback && !groups.some((group) => group.name === "p0") && (
          <Row group={{ ...holdback, name: "p0, the holdback" }} />
        )}
      </Table>
      <p class="quiet">
        Each person counts once, whatever the number of their thumbs; visitors of one network whom no server names
        are one person. The holdback is the base, which always answers a small share of the people. At most the
        newest 100,000 thumbs are read.
      </p>
    </>
  );
}

function Row({ group }: { group: Group }) {
  return (
    <tr>
      <th scope="row">{group.name}</th>
      <td>
        <b>{percent(group.approval)}</b> <Interval value={group.approval} low={group.low} high={group.high} />
      </td>
      <td>
        {percent(group.low)} to {percent(group.high)}
      </td>
      <td>{number(group.people)}</td>
      <td>{number(group.votes)}</td>
    </tr>
  );
}

function line(group: Group, times: string[], withBand: boolean): Line {
  const at = new Map(group.steps.map((step) => [step.at, step]));
  const found: Line = { label: group.name, values: times.map((time) => at.get(time)?.approval ?? null) };
  if (withBand) {
    found.low = times.map((time) => at.get(time)?.low ?? null);
    found.high = times.map((time) => at.get(time)?.high ?? null);
  }
  return found;
}
