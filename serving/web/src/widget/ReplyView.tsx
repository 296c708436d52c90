/** One reply with its tools: thumbs with reasons and a comment, edit, copy, another. */

import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { answer, isOpen, type Turn } from "../chat/turn.ts";
import { copyText } from "../text/copy.ts";
import { useShared } from "./context.ts";
import { Icon, type IconName } from "./icons.tsx";
import { Markdown } from "./Markdown.tsx";
import { ReasonChips, toggled } from "./ReasonChips.tsx";
import { TextEditor } from "./TextEditor.tsx";

interface Props {
  turn: Turn;
  last: boolean;
}

/** `textShown`: the text is on the screen already, and only the tools are wanted. */
export function ReplyView({ turn, last, textShown }: Props & { textShown: boolean }): JSX.Element | null {
  const { session, language } = useShared();
  const { texts } = language;
  const [editing, setEditing] = useState(false);
  const editButton = useRef<HTMLButtonElement>(null);
  const reply = answer(turn);
  if (editing) {
    const close = (text: string | null): void => {
      setEditing(false);
      if (text !== null && text !== reply.text) session.chat.edit(turn, text);
      setTimeout(() => editButton.current?.focus());
    };
    return (
      <TextEditor
        text={reply.text}
        label={texts.editorLabel}
        hint={texts.editorHint}
        save={texts.save}
        cancel={texts.cancel}
        close={close}
      />
    );
  }
  const writing = isOpen(turn);
  return (
    <>
      {!textShown && (writing || reply.text) && (
        <Markdown text={reply.text} whole={!writing} writing={writing} />
      )}
      {turn.state === "done" && reply.cut && reply.original === null && (
        <p class="aside">
          {texts.cutOff}{" "}
          {last && !session.chat.busy && (
            <button class="link" type="button" onClick={() => session.chat.send(texts.goOn)}>
              {texts.goOn}
            </button>
          )}
        </p>
      )}
      {reply.original !== null && <p class="aside">{texts.edited}</p>}
      {turn.state === "done" && (
        <Tools turn={turn} last={last} edit={() => setEditing(true)} editButton={editButton} />
      )}
      {turn.state === "done" && turn.token === null && <p class="aside">{texts.notKept}</p>}
      {reply.thumb && <Reasons turn={turn} />}
    </>
  );
}

interface ToolsProps extends Props {
  edit: () => void;
  editButton: { current: HTMLButtonElement | null };
}

function Tools({ turn, last, edit, editButton }: ToolsProps): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const { chat } = session;
  const reply = answer(turn);
  const [copied, setCopied] = useState(false);
  const byHand = useRef<HTMLDivElement>(null);
  const copy = async (): Promise<void> => {
    if (!(await copyText(reply.text, byHand.current!, texts))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
    session.announce(texts.copied);
    chat.copied(turn);
  };
  const votable = turn.token !== null && session.kept;
  const nudge = last && votable && !reply.thumb && session.votes.all.length === 0;
  return (
    <>
      <div class="tools" role="group" aria-label={texts.aboutReply}>
        {votable && <Thumb turn={turn} value="up" label={texts.good} />}
        {votable && <Thumb turn={turn} value="down" label={texts.bad} />}
        {votable && (
          <button
            ref={editButton}
            class="icon"
            type="button"
            aria-label={texts.edit}
            title={texts.edit}
            onClick={edit}
          >
            <Icon name="edit" />
          </button>
        )}
        <Tool name={copied ? "check" : "copy"} label={texts.copy} run={() => void copy()} />
        {last && !chat.busy && <Tool name="again" label={texts.another} run={() => chat.regenerate(turn)} />}
        {nudge && <span class="nudge">{texts.nudge}</span>}
      </div>
      <div ref={byHand} />
    </>
  );
}

function Tool({ name, label, run }: { name: IconName; label: string; run: () => void }): JSX.Element {
  return (
    <button class="icon" type="button" aria-label={label} title={label} onClick={run}>
      <Icon name={name} />
    </button>
  );
}

function Thumb({ turn, value, label }: { turn: Turn; value: "up" | "down"; label: string }): JSX.Element {
  const { session } = useShared();
  const pressed = answer(turn).thumb === value;
  return (
    <button
      class="icon"
      type="button"
      part="thumb"
      aria-label={label}
      aria-pressed={pressed}
      title={label}
      onClick={() => void session.chat.thumb(turn, pressed ? null : value)}
    >
      <Icon name={value} />
    </button>
  );
}

function Reasons({ turn }: { turn: Turn }): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const reply = answer(turn);
  const up = reply.thumb === "up";
  const [commenting, setCommenting] = useState(reply.comment !== "");
  const input = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    if (commenting && !reply.comment) input.current?.focus();
  }, [commenting]);
  const toggle = (slug: string): void =>
    void session.chat.thumb(turn, reply.thumb, toggled(reply.reasons, slug), reply.comment);
  const comment = async (text: string): Promise<void> => {
    if (text.trim() === reply.comment) return;
    const recorded = await session.chat.thumb(turn, reply.thumb, reply.reasons, text.trim());
    if (recorded) session.announce(texts.commentSaved);
  };
  return (
    <div class="reasons" role="group" aria-label={up ? texts.whatWasGood : texts.whatWasWrong}>
      <span class="ask" aria-hidden="true">
        {texts.why}
      </span>
      <ReasonChips
        named={session.options.reasons[up ? "up" : "down"]}
        given={reply.reasons}
        toggle={toggle}
      />
      {commenting ? (
        <textarea
          ref={input}
          class="comment"
          rows={2}
          dir="auto"
          maxLength={10_000}
          aria-label={texts.commentLabel}
          defaultValue={reply.comment}
          onBlur={(event) => void comment(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              event.currentTarget.blur();
            }
          }}
        />
      ) : (
        <button class="chip" type="button" onClick={() => setCommenting(true)}>
          {texts.comment}…
        </button>
      )}
    </div>
  );
}
