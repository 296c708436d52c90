/** One turn: the message, its reply or the replies to compare, and what can be done with them. */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { answer, isOpen, type Turn } from "../chat/turn.ts";
import { when } from "../language/language.ts";
import { useShared } from "./context.ts";
import { isFinal, why } from "./errors.ts";
import { Icon } from "./icons.tsx";
import { Markdown } from "./Markdown.tsx";
import { Compared, Pair } from "./Pair.tsx";
import { ReplyView } from "./ReplyView.tsx";
import { TextEditor } from "./TextEditor.tsx";

interface Props {
  turn: Turn;
  last: boolean;
}

export function TurnView({ turn, last }: Props): JSX.Element {
  const { texts } = useShared().language;
  const undecided = turn.replies.length > 1 && turn.verdict === null && turn.state !== "failed";
  return (
    <li class="turn" data-completion={turn.completion} data-state={turn.state} tabIndex={-1}>
      <Message turn={turn} />
      {turn.forgot && <p class="aside">{texts.forgot}</p>}
      {undecided ? (
        <Pair turn={turn} />
      ) : (
        <article class="reply" part="reply" aria-label={texts.reply}>
          {turn.verdict !== null && <Compared turn={turn} />}
          {turn.again && <BeforeAndAfter turn={turn} before={turn.again.before} />}
          <ReplyView turn={turn} last={last} textShown={turn.again !== null} />
        </article>
      )}
      <Problem turn={turn} last={last} />
      <LiveVotes turn={turn} last={last} />
    </li>
  );
}

function Message({ turn }: { turn: Turn }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const [editing, setEditing] = useState(false);
  const editButton = useRef<HTMLButtonElement>(null);
  if (editing) {
    const close = (text: string | null): void => {
      setEditing(false);
      if (text !== null) session.chat.rewrite(turn, text);
      setTimeout(() => editButton.current?.focus());
    };
    return (
      <TextEditor
        text={turn.prompt}
        label={texts.editMessage}
        hint={texts.editMessageHint}
        save={texts.sendAgain}
        cancel={texts.cancel}
        close={close}
      />
    );
  }
  return (
    <article class="you" aria-label={texts.you}>
      {!session.chat.busy && (
        <button
          ref={editButton}
          class="icon rewrite"
          type="button"
          aria-label={texts.editMessage}
          onClick={() => setEditing(true)}
        >
          <Icon name="edit" />
        </button>
      )}
      <p class="message" part="message" dir="auto">
        {turn.prompt}
      </p>
    </article>
  );
}

/** The reply from before the model learned, and the new one beside it. */
function BeforeAndAfter({ turn, before }: { turn: Turn; before: string }): JSX.Element {
  const { texts } = useShared().language;
  const writing = isOpen(turn);
  return (
    <div class="pair">
      <div class="card before">
        <p class="letter-line">{texts.before}</p>
        <Markdown text={before} whole />
      </div>
      <div class="card after">
        <p class="letter-line">{texts.after}</p>
        <Markdown text={answer(turn).text} whole={!writing} writing={writing} />
      </div>
    </div>
  );
}

function Problem({ turn, last }: Props): JSX.Element | null {
  const { session, language } = useShared();
  const { texts } = language;
  if (turn.state !== "stopped" && turn.state !== "failed") return null;
  const again = last && !(turn.problem && isFinal(turn.problem));
  return (
    <p
      class={turn.state === "failed" ? "problem" : "aside"}
      role={turn.state === "failed" ? "alert" : undefined}
    >
      {turn.problem ? why(turn.problem, texts) : texts.stopped}{" "}
      {again && (
        <button class="link" type="button" onClick={() => session.chat.regenerate(turn)}>
          {texts.tryAgain}
        </button>
      )}
    </p>
  );
}

/** Says that votes on this turn are live, and offers to ask again. */
function LiveVotes({ turn, last }: Props): JSX.Element | null {
  const { session, language } = useShared();
  const { texts, code } = language;
  const live = turn.completion ? session.votes.on(turn.completion).filter((vote) => vote.life.live_at) : [];
  const newest = live.at(-1);
  if (!newest) return null;
  return (
    <p class="vote-live">
      <Icon name="check" />
      <span>{texts.yourVoteLive(when(newest.life.live_at ?? "", code))}</span>
      {!session.chat.busy && !(last && turn.again) && (
        <button class="link" type="button" onClick={() => session.chat.askAgain(turn)}>
          {texts.askAgain}
        </button>
      )}
    </p>
  );
}
