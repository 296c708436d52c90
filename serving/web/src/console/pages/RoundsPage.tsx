import { useData } from "../data";
import { Empty, State, Waiting } from "../parts/basics";
import { href } from "../place";
import type { List, Round } from "../types";
import { ago, duration, plural, time } from "../words";
import { RoundProgress } from "./OverviewPage";

const VERDICTS: Record<string, string> = {
  passed: "passed the gate",
  unknown: "people decide",
  refused: "refused by the gate",
};

/** Training rounds, newest first; the running one with its progress. */
export function RoundsPage() {
  const rounds = useData<List<Round>>("console/rounds?limit=100", ["rounds"]);
  return (
    <>
      <h1>Rounds</h1>
      <Waiting on={rounds}>
        {(list) =>
          list.data.length ? (
            <ul class="rows">
              {list.data.map((round) => (
                <li key={round.id}>
                  <a class="row" data-row href={href(["rounds", String(round.id)])}>
                    <span class="number">{round.number}</span>
                    <span class="what">
                      <b>{round.headline}</b>
                      <span class="about">
                        <time dateTime={round.started_at} title={time(round.started_at)}>
                          {ago(round.started_at)}
                        </time>
                        <span>{duration(round.seconds)}</span>
                        {round.votes !== null && <span>{plural(round.votes, "vote")} by then</span>}
                        {round.verdict && <span>{VERDICTS[round.verdict]}</span>}
                      </span>
                    </span>
                    <State of={round.outcome} after />
                  </a>
                  {round.outcome === "running" && <RoundProgress round={round} />}
                </li>
              ))}
            </ul>
          ) : (
            <Empty>No round has run. The first one starts when enough people have voted.</Empty>
          )
        }
      </Waiting>
    </>
  );
}
