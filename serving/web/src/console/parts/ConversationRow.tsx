import { href } from "../place";
import type { Turn } from "../types";
import { ago, person, time } from "../words";
import { VoteSummary } from "./VoteSummary";

/** A turn in a list; it leads to its conversation. */
export function ConversationRow({ turn }: { turn: Turn }) {
  const [reply] = turn.replies ?? [];
  return (
    <li>
      <a class="vote" data-row href={href(["conversations", turn.conversation_id])}>
        <span class="said-of">
          {turn.votes.map((vote) => (
            <VoteSummary key={vote.id} vote={vote} />
          ))}
        </span>
        <bdi class="prompt">{turn.prompt ?? "(no text)"}</bdi>
        <bdi class="reply">{reply?.text ?? ""}</bdi>
        <span class="about">
          <time dateTime={turn.created_at} title={time(turn.created_at)}>
            {ago(turn.created_at)}
          </time>
          <span>{reply?.policy}</span>
          <span>{person(turn.user)}</span>
          {Object.entries(turn.metadata).map(([key, value]) => (
            <bdi key={key}>
              {key}={value}
            </bdi>
          ))}
        </span>
      </a>
    </li>
  );
}
