import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { Empty, Table, Waiting } from "../parts/basics";
import { Problem } from "../parts/fields";
import type { AuditEntry, List } from "../types";
import { ago, time } from "../words";

const PAGE = 50;
const KINDS = [
  "key",
  "project",
  "route",
  "rollout",
  "policy",
  "queue",
  "view",
  "webhook",
  "quarantine",
  "turn",
  "erasure",
];

/** Who changed what, newest first. Nobody can change or delete an entry. */
export function AuditPage() {
  const [kind, setKind] = useState("");
  return (
    <>
      <div class="title">
        <h1>Audit</h1>
        <label class="by">
          Changes of
          <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
            <option value="">everything</option>
            {KINDS.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
      </div>
      <p class="quiet">
        The database writes an entry with each change, and refuses to change one. “service” is what happened by
        itself.
      </p>
      <Entries key={kind} kind={kind} />
    </>
  );
}

/** The newest entries, which come by themselves, and older ones page by page. */
function Entries({ kind }: { kind: string }) {
  const path = `audit?limit=${PAGE}${kind && `&action=${kind}`}`;
  const [older, setOlder] = useState<AuditEntry[]>([]);
  // Once older ones are there, the first page stays: a new entry would push another into the gap.
  const first = useData<List<AuditEntry>>(path, older.length ? [] : ["policies", "training"]);
  const [error, setError] = useState<string | null>(null);

  async function more(last: AuditEntry) {
    try {
      const found = await ask<List<AuditEntry>>(`${path}&before=${last.id}`);
      setOlder([...older, ...found.data]);
      setError(null);
    } catch (refused) {
      setError(noteError(refused));
    }
  }

  return (
    <>
      <Waiting on={first}>
        {(list) => {
          const entries = [...list.data, ...older];
          const last = entries.at(-1);
          if (!last) return <Empty>Nothing was changed.</Empty>;
          return (
            <>
              <Table label="Changes" head={["When", "Who", "What", "Which", "From and to"]}>
                {entries.map((entry) => (
                  <tr key={entry.id}>
                    <td>
                      <time dateTime={entry.at} title={time(entry.at)}>
                        {ago(entry.at)}
                      </time>
                    </td>
                    <td class="id">{entry.actor}</td>
                    <td>{entry.action.replace(".", " ")}</td>
                    <td class="id">{entry.target}</td>
                    <td class="words">
                      {Object.entries(entry.details).map(([name, change]) => (
                        <div key={name}>
                          {name}: {said(change)}
                        </div>
                      ))}
                    </td>
                  </tr>
                ))}
              </Table>
              {entries.length % PAGE === 0 && (
                <button type="button" class="more" onClick={() => void more(last)}>
                  Show more
                </button>
              )}
            </>
          );
        }}
      </Waiting>
      <Problem error={error} />
    </>
  );
}

function said(change: AuditEntry["details"][string]): string {
  if (typeof change === "string") return change;
  const words = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));
  return change.from == null ? words(change.to) : `${words(change.from)} → ${words(change.to)}`;
}
