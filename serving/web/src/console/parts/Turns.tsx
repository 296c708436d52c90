import type { Turn } from "../types";
import { percent, time } from "../words";
import { PolicyLink } from "./basics";
import { VoteSummary } from "./VoteSummary";

/** A conversation, turn by turn, with what was said of each reply. */
export function Turns({ turns, marked }: { turns: Turn[]; marked?: string }) {
  return (
    <ol class="turns">
      {turns.map((turn) => (
        <li key={turn.id} class={turn.id === marked ? "marked" : undefined}>
          <p class="asked">
            <bdi>{turn.prompt ?? "(no text)"}</bdi>
          </p>
          {(turn.replies ?? []).map((reply) => (
            <div key={reply.choice} class="replied">
              <p>
                <bdi>{reply.text || "(no text)"}</bdi>
              </p>
              <p class="about">
                <PolicyLink id={reply.policy} />
                {reply.propensity < 1 && <span>drawn with {percent(reply.propensity)}</span>}
                {turn.votes
                  .filter((vote) => vote.choice === reply.choice || vote.choice === null)
                  .map((vote) => (
                    <VoteSummary key={vote.id} vote={vote} />
                  ))}
              </p>
            </div>
          ))}
          <p class="about">
            <time dateTime={turn.created_at}>{time(turn.created_at)}</time>
          </p>
        </li>
      ))}
    </ol>
  );
}
