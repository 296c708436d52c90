import { percent, words } from "../words";
import { Table } from "./basics";

const COUNTS = ["words", "sentences"];

function shown(name: string, value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return COUNTS.includes(name) ? value.toFixed(1) : percent(value);
}

/** How two policies write: words and sentences of a reply, and the share of replies with each mark. */
export function StyleTable({
  head,
  one,
  other,
}: {
  head: [string, string];
  one: Record<string, number>;
  other: Record<string, number>;
}) {
  const shares = Object.keys(one).filter((name) => name !== "replies" && !COUNTS.includes(name));
  const names = [...COUNTS.filter((name) => name in one), ...shares.sort()];
  return (
    <Table label="How they write" head={["Replies", ...head, "Change"]}>
      {names.map((name) => {
        const [before, after] = [one[name], other[name]];
        const change =
          before !== undefined && after !== undefined && before !== null && after !== null
            ? after - before
            : null;
        const sign = change !== null && change > 0 ? "+" : "";
        return (
          <tr key={name}>
            <th scope="row">{words(name)}</th>
            <td>{shown(name, before)}</td>
            <td>{shown(name, after)}</td>
            <td>{change === null || Math.abs(change) < 0.005 ? "–" : sign + shown(name, change)}</td>
          </tr>
        );
      })}
    </Table>
  );
}
