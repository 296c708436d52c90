/** The visitor's votes and what has become of each; a vote leads back to its reply and can be taken back. */

import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import type { CastVote } from "../chat/vote_history.ts";
import { type Language, quote, type Texts, when } from "../language/language.ts";
import { useShared } from "./context.ts";
import { Dialog } from "./Dialog.tsx";

interface Props {
  close: () => void;
  show: (completion: string, conversation: string) => void;
}

export function VotesPanel({ close, show }: Props): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const votes = session.votes.all.toReversed();
  const live = votes.filter((vote) => vote.life.live_at).length;
  useEffect(() => {
    session.following.watched = true;
    session.following.hurry();
    return () => {
      session.following.watched = false;
    };
  }, []);
  return (
    <Dialog title={texts.yourVotes} close={close}>
      <p class="aside">{votes.length ? texts.votesSummary(votes.length, live) : texts.noVotes}</p>
      <ol class="votes">
        {votes.map((vote) => (
          <li key={vote.id} data-live={vote.life.live_at !== null}>
            <p dir="auto">
              <bdi>{texts.what[vote.what]}</bdi>, {texts.on} <bdi>{quote(vote.prompt, 60)}</bdi>
            </p>
            <p class="vote-life">
              {lifeInWords(vote, language)}
              {vote.life.progress !== null && vote.life.stage === "training" && (
                <progress max={1} value={vote.life.progress} aria-label={texts.life.training} />
              )}
            </p>
            <div class="vote-actions">
              <button class="link" type="button" onClick={() => show(vote.completion, vote.conversation)}>
                {texts.showReply}
              </button>
              <button class="link" type="button" onClick={() => session.retract(vote)}>
                {texts.retract}
              </button>
            </div>
          </li>
        ))}
      </ol>
    </Dialog>
  );
}

/** Says what has become of a vote. */
export function lifeInWords({ life }: Pick<CastVote, "life">, { texts, code }: Language): string {
  if (life.live_at && life.stage === "live") return texts.liveSince(when(life.live_at, code));
  if (life.stage === "recorded" && life.votes_needed) return texts.votesNeeded(life.votes_needed);
  if (life.stage === "training" && life.progress !== null) {
    return texts.progress(
      new Intl.NumberFormat(code, { style: "percent", maximumFractionDigits: 0 }).format(life.progress),
    );
  }
  return texts.life[life.stage as keyof Texts["life"]] ?? texts.life.recorded;
}
