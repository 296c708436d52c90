import { href, usePlace } from "../place";
import type { Vote } from "../types";
import { ago, person, time } from "../words";
import { Badge } from "./basics";
import { fateOf, votedText, VoteSummary } from "./VoteSummary";

/** A vote in a list; it leads to the whole one, and keeps the filter for the way back. */
export function VoteRow({ vote }: { vote: Vote }) {
  const { path, query } = usePlace();
  const fate = fateOf(vote);
  const text = vote.edit ?? votedText(vote);
  return (
    <li>
      <a class="vote" data-row href={href(["feedback", vote.id], path[0] === "feedback" ? query : {})}>
        <span class="said-of">
          <VoteSummary vote={vote} />
        </span>
        <bdi class="prompt">{vote.prompt ?? "(no text)"}</bdi>
        <bdi class="reply">{text}</bdi>
        {vote.comment && <bdi class="comment">“{vote.comment}”</bdi>}
        <span class="about">
          <time dateTime={vote.created_at} title={time(vote.created_at)}>
            {ago(vote.created_at)}
          </time>
          <span>{vote.policy ?? "several policies"}</span>
          <span>{person(vote.user)}</span>
          {Object.entries(vote.metadata).map(([key, value]) => (
            <bdi key={key}>
              {key}={value}
            </bdi>
          ))}
          <Badge tone={fate.tone}>{fate.words}</Badge>
        </span>
      </a>
    </li>
  );
}
