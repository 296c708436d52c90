import type { Vote } from "../types";
import { Badge } from "./basics";

/** What a vote says, in a word. */
export function verdictOf(vote: Pick<Vote, "type" | "value">): {
  word: string;
  tone: "good" | "bad" | "plain";
} {
  if (vote.type === "thumb") {
    return vote.value.value === "up" ? { word: "Good", tone: "good" } : { word: "Bad", tone: "bad" };
  }
  if (vote.type === "edit") return { word: "Edited", tone: "plain" };
  if (vote.type === "signal") return { word: vote.value.signal ?? "Signal", tone: "plain" };
  if (vote.value.acceptable === false) return { word: "None is good", tone: "bad" };
  const tie = vote.value.ranking?.length === 1;
  return { word: tie ? "Equal" : "Ranked", tone: "plain" };
}

/** What became of a vote, in words. */
export function fateOf(vote: Vote): { words: string; tone: "good" | "bad" | "plain" | "accent" } {
  if (vote.retracted_at) return { words: "retracted", tone: "plain" };
  if (vote.superseded_by) return { words: "replaced by a newer vote", tone: "plain" };
  if (vote.quarantined) return { words: "held: its rater is in quarantine", tone: "bad" };
  if (!vote.learned_by) {
    return { words: vote.held_out ? "held out as a check in the last round" : "waits for a round", tone: "plain" };
  }
  if (vote.learned_state === "rolled_back" || vote.learned_state === "rejected") {
    return { words: `learned by ${vote.learned_by}, taken back`, tone: "bad" };
  }
  if (vote.live_at) return { words: `live since ${vote.learned_by}`, tone: "good" };
  const tried = vote.learned_state === "canary" ? ", which some people try" : "";
  return { words: `learned by ${vote.learned_by}${tried}`, tone: "accent" };
}

/** A thumb, a ranking, an edit or a signal, with its reasons. */
export function VoteSummary({ vote }: { vote: Pick<Vote, "type" | "value"> }) {
  const { word, tone } = verdictOf(vote);
  return (
    <>
      <Badge tone={tone}>{word}</Badge>
      {(vote.value.reasons ?? []).map((reason) => (
        <span key={reason} class="reason">
          {reason}
        </span>
      ))}
    </>
  );
}

/** Returns the text that a vote is about. */
export function votedText(vote: Vote): string {
  const replies = vote.replies ?? [];
  if (vote.choice !== null) return replies.find((reply) => reply.choice === vote.choice)?.text ?? "";
  return replies.map((reply) => reply.text).join(" · ");
}
