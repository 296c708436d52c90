import { useState } from "preact/hooks";
import { useData } from "../data";
import { Empty, Table, Waiting } from "../parts/basics";
import type { Counts, Usage } from "../types";
import { number } from "../words";

const COLUMNS: [keyof Counts, string][] = [
  ["chats", "Replies"],
  ["votes", "Votes"],
  ["requests", "Other requests"],
  ["refused", "Refused"],
  ["prompt_tokens", "Tokens read"],
  ["completion_tokens", "Tokens written"],
];

/** What was asked of the project, by key and by day; of all projects, where this one makes them. */
export function UsagePage() {
  const [days, setDays] = useState(30);
  const since = new Date(Date.now() - (days - 1) * 86_400_000).toISOString().slice(0, 10);
  const usage = useData<Usage>(`usage?since=${since}`);
  return (
    <>
      <div class="title">
        <h1>Usage</h1>
        <label class="by">
          Time
          <select value={String(days)} onChange={(event) => setDays(Number(event.currentTarget.value))}>
            <option value="7">7 days</option>
            <option value="30">30 days</option>
            <option value="365">A year</option>
          </select>
        </label>
      </div>
      <p class="quiet">Days are those of UTC. Counts are some seconds old.</p>
      <Waiting on={usage}>
        {(found) =>
          found.days.length ? (
            <>
              <CountTable
                name="By key"
                rows={found.keys.map((each) => ({ ...each, head: each.name ?? each.key }))}
              />
              <CountTable
                name="By day"
                rows={found.days.map((each) => ({ ...each, head: each.day })).reverse()}
              />
              {found.projects && (
                <CountTable
                  name="By project"
                  rows={found.projects.map((each) => ({ ...each, head: each.project }))}
                />
              )}
            </>
          ) : (
            <Empty>Nothing was asked in this time.</Empty>
          )
        }
      </Waiting>
    </>
  );
}

function CountTable({ name, rows }: { name: string; rows: (Counts & { head: string })[] }) {
  return (
    <section aria-label={name}>
      <h2>{name}</h2>
      <Table label={name} head={[name, ...COLUMNS.map(([, words]) => words)]}>
        {rows.map((row) => (
          <tr key={row.head}>
            <th scope="row">
              <bdi>{row.head}</bdi>
            </th>
            {COLUMNS.map(([column]) => (
              <td key={column}>{number(row[column])}</td>
            ))}
          </tr>
        ))}
      </Table>
    </section>
  );
}
