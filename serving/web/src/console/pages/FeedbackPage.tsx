import { useMemo, useState } from "preact/hooks";
import { ask, check, request } from "../api";
import { noteError, useData } from "../data";
import { ApprovalView } from "../parts/ApprovalView";
import { Empty, Waiting } from "../parts/basics";
import { Problem } from "../parts/fields";
import { ConversationRow } from "../parts/ConversationRow";
import { Filters } from "../parts/Filters";
import { VoteRow } from "../parts/VoteRow";
import { saveFile } from "../files";
import { filterQuery } from "../filter";
import { href, usePlace } from "../place";
import { say } from "../said";
import type { List, Turn, Vote } from "../types";
import { number, plural } from "../words";

const TABS = [
  { show: "", name: "Votes" },
  { show: "conversations", name: "Conversations" },
  { show: "approval", name: "Approval" },
];

/** The feedback desk: votes and conversations as they come, by one filter, which is in the address. */
export function FeedbackPage() {
  const place = usePlace();
  const show = place.query.get("show") ?? "";
  const address = place.query.toString();
  // A filter such as "the last day" is read once: the same address is the same query.
  const query = useMemo(
    () => filterQuery(new URLSearchParams(address), show === "conversations").toString(),
    [address, show],
  );
  return (
    <>
      <div class="title">
        <h1>Feedback</h1>
        <Export query={filterQuery(place.query, false)} />
      </div>
      <Filters place={place} />
      <nav class="tabs" aria-label="What is shown">
        {TABS.map((tab) => {
          const to = new URLSearchParams(place.query);
          if (tab.show) to.set("show", tab.show);
          else to.delete("show");
          return (
            <a
              key={tab.show}
              href={href(["feedback"], to)}
              aria-current={tab.show === show ? "page" : undefined}
            >
              {tab.name}
            </a>
          );
        })}
      </nav>
      {show === "approval" ? (
        <ApprovalView place={place} query={query} />
      ) : show === "conversations" ? (
        <Rows<Turn>
          key={`turns ${query}`}
          path="console/conversations"
          query={query}
          none="No conversations match."
          row={(turn) => <ConversationRow key={turn.id} turn={turn} />}
        />
      ) : (
        <Rows<Vote>
          key={`votes ${query}`}
          path="console/votes"
          query={query}
          none="No votes match."
          row={(vote) => <VoteRow key={vote.id} vote={vote} />}
        />
      )}
    </>
  );
}

/** A list that begins with the newest rows, which come by themselves, and goes on page by page; another query is
 * another list. */
function Rows<T>(props: { path: string; query: string; none: string; row: (each: T) => preact.JSX.Element }) {
  const { path, query, none, row } = props;
  const [more, setMore] = useState<{ rows: T[]; next: string | null | undefined }>({
    rows: [],
    next: undefined,
  });
  // Once it goes on, the first page stays as it is: new rows would push others into the gap between the pages.
  const first = useData<List<T>>(`${path}?${query}`, more.rows.length ? [] : ["votes"]);
  const [error, setError] = useState<string | null>(null);
  const next = more.next === undefined ? first.data?.next_cursor : more.next;

  async function load() {
    try {
      const page = await ask<List<T>>(`${path}?${query}&cursor=${encodeURIComponent(next ?? "")}`);
      setMore({ rows: [...more.rows, ...page.data], next: page.next_cursor ?? null });
      setError(null);
    } catch (refused) {
      setError(noteError(refused));
    }
  }

  return (
    <Waiting on={first}>
      {(list) => (
        <>
          {list.count !== undefined && (
            <p class="quiet" role="status">
              {list.counted_up_to !== undefined && list.count > list.counted_up_to
                ? `More than ${number(list.counted_up_to)} votes`
                : plural(list.count, "vote")}
            </p>
          )}
          {list.data.length === 0 && <Empty>{none}</Empty>}
          <ul class="votes long">{[...list.data, ...more.rows].map(row)}</ul>
          <Problem error={error} />
          {next && (
            <button type="button" class="more" onClick={load}>
              Show more
            </button>
          )}
        </>
      )}
    </Waiting>
  );
}

/** Saves exactly the votes that the filter selects, as JSON lines. */
function Export({ query }: { query: URLSearchParams }) {
  const [busy, setBusy] = useState(false);
  async function save() {
    setBusy(true);
    try {
      const answer = await request(`feedback/export?${query}`);
      await check(answer);
      saveFile("feedback.jsonl", await answer.blob());
      say("Exported what the filter selects, with what was superseded.");
    } catch (refused) {
      say(noteError(refused));
    }
    setBusy(false);
  }
  return (
    <button type="button" onClick={save} disabled={busy}>
      {busy ? "Exporting…" : "Export"}
    </button>
  );
}
