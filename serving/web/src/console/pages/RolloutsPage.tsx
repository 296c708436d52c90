import { useState } from "preact/hooks";
import { useData } from "../data";
import { Empty, PolicyLink, Shares, State, Table, Waiting } from "../parts/basics";
import { type Action, ChangeDialog } from "../parts/ChangeDialog";
import { EstimateView } from "../parts/EstimateView";
import { EvidenceView } from "../parts/EvidenceView";
import type { List, Rollout, Status } from "../types";
import { ago, percent, time } from "../words";

const HOW = {
  direct: () => "at once",
  canary: (share: string) => `canary, ${share}`,
  duel: (share: string) => `duels, ${share}`,
};

/** Who answers, the running rollout's evidence as it moves, and what was promoted and taken back. */
export function RolloutsPage({ status }: { status: Status | null }) {
  const rollouts = useData<List<Rollout>>("console/rollouts", ["rollouts", "policies"]);
  const [change, setChange] = useState<{ action: Action; policy: string } | null>(null);
  return (
    <>
      <h1>Rollouts</h1>
      {status && (
        <section class="card" aria-labelledby="now">
          <h2 id="now">Who answers now</h2>
          <Shares shares={status.answering.shares} />
          {status.answering.live !== "p0" && (
            <div class="buttons operate">
              <button
                type="button"
                onClick={() => setChange({ action: "rollback", policy: status.answering.live })}
              >
                Take {status.answering.live} back…
              </button>
            </div>
          )}
        </section>
      )}
      <Waiting on={rollouts}>
        {(list) => {
          const running = list.data.find((each) => each.state === "running");
          const watched = list.data.find(
            (each) => each.policy === status?.answering.live && each.kind === "direct" && each.evidence,
          );
          return (
            <>
              {running && (
                <section class="card" aria-labelledby="running">
                  <h2 id="running">
                    {running.kind === "duel" ? "Duels" : "Canary"}: <PolicyLink id={running.policy} />{" "}
                    {running.kind === "duel" ? "in" : "on"} {percent(running.share)}
                    {running.kind === "duel" && " of the pairs"}
                  </h2>
                  <EstimateView estimate={running.estimate} />
                  {running.evidence ? (
                    <EvidenceView evidence={running.evidence} />
                  ) : (
                    <p class="quiet">It has just begun.</p>
                  )}
                  <div class="buttons operate">
                    <button
                      type="button"
                      class="primary"
                      onClick={() => setChange({ action: "promote", policy: running.policy })}
                    >
                      Make it live…
                    </button>
                    <button
                      type="button"
                      onClick={() => setChange({ action: "rollback", policy: running.policy })}
                    >
                      Take it back…
                    </button>
                  </div>
                </section>
              )}
              {!running && watched?.evidence && (
                <section class="card" aria-labelledby="watched">
                  <h2 id="watched">
                    Watched: <PolicyLink id={watched.policy} />
                  </h2>
                  <EstimateView estimate={watched.estimate} />
                  <EvidenceView evidence={watched.evidence} />
                </section>
              )}
              <h2>What happened</h2>
              {list.data.length === 0 ? (
                <Empty>Nothing was rolled out yet.</Empty>
              ) : (
                <Table
                  label="Rollouts"
                  head={["When", "Policy", "Instead of", "How", "How it ended", "Why", "Who"]}
                >
                  {list.data.map((each) => (
                    <tr key={each.id}>
                      <td>
                        <time dateTime={each.started_at} title={time(each.started_at)}>
                          {ago(each.started_at)}
                        </time>
                      </td>
                      <td>
                        <PolicyLink id={each.policy} />
                      </td>
                      <td>
                        <PolicyLink id={each.replaces} />
                      </td>
                      <td>{HOW[each.kind](percent(each.share))}</td>
                      <td>
                        <State of={each.state} />
                      </td>
                      <td class="words">
                        {each.reason ?? (each.kind === "direct" ? "for everybody at once" : "")}
                      </td>
                      <td>{each.actor}</td>
                    </tr>
                  ))}
                </Table>
              )}
            </>
          );
        }}
      </Waiting>
      {change && <ChangeDialog {...change} onClose={() => setChange(null)} onDone={rollouts.reload} />}
    </>
  );
}
