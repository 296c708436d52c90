import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { Badge, Empty, Table, Waiting } from "../parts/basics";
import { Problem } from "../parts/fields";
import { href, usePlace } from "../place";
import { reasonWords } from "../reasons";
import type { HeldRater, HeldRaters, HeldState } from "../types";
import { ago, kindOfRater, number, person, time } from "../words";

const PAGE = 50;
const STATES: Record<HeldState, string> = { held: "wait for you", accepted: "accepted", rejected: "rejected" };
const NONE: Record<HeldState, string> = {
  held: "Nobody's votes look hostile. Nothing waits for you.",
  accepted: "Nobody was accepted.",
  rejected: "Nobody was rejected.",
};

/** Raters whose votes look hostile: what was found, and what was decided. */
export function RatersPage() {
  const place = usePlace();
  const asked = place.query.get("state") ?? "held";
  const state: HeldState = Object.hasOwn(STATES, asked) ? (asked as HeldState) : "held";
  return (
    <>
      <h1>Raters</h1>
      <p class="quiet">
        These raters' votes look hostile. Votes are kept, but nothing learns from them and no rollout counts
        them, until you accept their rater.
      </p>
      <InState key={state} state={state} />
    </>
  );
}

/** The newest raters of one state, which come by themselves, and older ones page by page. */
function InState({ state }: { state: HeldState }) {
  const path = `quarantine?limit=${PAGE}&state=${state}`;
  const [older, setOlder] = useState<HeldRaters | null>(null);
  // Once older ones are there, the first page stays: a new rater would push another into the gap.
  const first = useData<HeldRaters>(path, older ? [] : ["votes", "rounds"]);
  const [error, setError] = useState<string | null>(null);

  async function more(last: HeldRater) {
    try {
      const page = await ask<HeldRaters>(`${path}&before=${last.id}`);
      setOlder({ ...page, data: [...(older?.data ?? []), ...page.data] });
      setError(null);
    } catch (refused) {
      setError(noteError(refused));
    }
  }

  return (
    <>
      <Waiting on={first}>
        {(list) => {
          const raters = [...list.data, ...(older?.data ?? [])];
          const last = raters.at(-1);
          return (
            <>
              <nav class="tabs" aria-label="Which raters">
                {(Object.keys(STATES) as HeldState[]).map((each) => (
                  <a
                    key={each}
                    href={href(["raters"], { state: each === "held" ? null : each })}
                    aria-current={each === state ? "page" : undefined}
                  >
                    {number(list.counts[each] ?? 0)} {STATES[each]}
                  </a>
                ))}
              </nav>
              {last ? <Raters of={raters} /> : <Empty>{NONE[state]}</Empty>}
              {last && (older ?? list).has_more && (
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

function Raters({ of: raters }: { of: HeldRater[] }) {
  return (
    <Table label="Raters" head={["Rater", "What was found", "Votes", "Held", "Decision"]}>
      {raters.map((rater) => (
        <tr key={rater.rater}>
          <th scope="row">
            <a data-row class="id" href={href(["raters", rater.rater])}>
              {person(rater.rater)}
            </a>
            <div class="quiet">{kindOfRater(rater.rater)}</div>
          </th>
          <td class="words">
            {Object.keys(rater.evidence).map((reason) => (
              <div key={reason}>{reasonWords(reason)}</div>
            ))}
          </td>
          <td>{number(rater.votes)}</td>
          <td>
            <time dateTime={rater.created_at} title={time(rater.created_at)}>
              {ago(rater.created_at)}
            </time>
          </td>
          <td class="words">
            {rater.state === "held" ? (
              <Badge tone="near">waits for you</Badge>
            ) : (
              <>
                <Badge tone={rater.state === "accepted" ? "good" : "bad"}>{rater.state}</Badge>{" "}
                {rater.decision_reason}
              </>
            )}
          </td>
        </tr>
      ))}
    </Table>
  );
}
