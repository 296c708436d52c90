/** The composer: the message box, and what may be said about it. It is no form, which a sandboxed frame may not submit. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useShared } from "./context.ts";
import { Icon } from "./icons.tsx";

const BYTES_PER_TOKEN = 4; // prose has 3 to 4.5; the service counts exactly
const HISTORY = 0.9; // the share of a request's bytes that one message may have

interface Props {
  sent: () => void;
  privacy: () => void;
  tone: () => void;
}

export function Composer({ sent, privacy, tone }: Props): JSX.Element {
  const { session, language } = useShared();
  const { texts } = language;
  const { chat } = session;
  const [text, setText] = useState("");
  const input = useRef<HTMLTextAreaElement>(null);
  const limit = useLimit(text);
  const ready = text.trim() !== "" && limit === null;

  const fit = (): void => {
    const box = input.current;
    if (!box || CSS.supports("field-sizing", "content")) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };
  useEffect(fit, [text]);

  const submit = (): void => {
    if (chat.busy) {
      chat.stop();
    } else if (ready) {
      setText("");
      chat.send(text.trim());
      session.announce((chat.turns.at(-1)?.replies.length ?? 1) > 1 ? texts.writingTwo : texts.writing);
      sent();
    }
    input.current?.focus();
  };
  const keys = (event: KeyboardEvent): void => {
    if (event.key === "Escape" && chat.busy) {
      event.stopPropagation();
      chat.stop();
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!chat.busy) submit();
  };

  return (
    <>
      {limit && (
        <p class="limit" id="limit" role="alert">
          {limit}
        </p>
      )}
      <div class="composer" part="composer">
        <textarea
          ref={input}
          rows={1}
          dir="auto"
          value={text}
          placeholder={texts.placeholder}
          aria-label={texts.yourMessage}
          aria-describedby={limit ? "limit" : "hint"}
          aria-invalid={limit !== null}
          enterkeyhint="send"
          autocomplete="off"
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={keys}
        />
        <button
          class="quiet toggle"
          type="button"
          aria-pressed={chat.compare}
          title={texts.compareHint}
          onClick={() => {
            chat.compare = !chat.compare;
            session.changed();
          }}
        >
          <Icon name="pair" />
          <span>{texts.compare}</span>
        </button>
        <button
          class="send"
          type="button"
          part="send"
          aria-label={chat.busy ? texts.stop : texts.send}
          disabled={!chat.busy && !ready}
          onClick={submit}
        >
          <Icon name={chat.busy ? "stop" : "send"} />
        </button>
      </div>
      <p class="hint" id="hint">
        <span class="keys">{texts.keys} </span>
        {texts.modelNote}{" "}
        <button class="link" type="button" aria-haspopup="dialog" onClick={privacy}>
          {session.kept ? texts.teaches : texts.optedOut}
        </button>
        {session.asksForTone && chat.turns.length > 0 && (
          <>
            {" "}
            <button class="link" type="button" aria-haspopup="dialog" onClick={tone}>
              {texts.tone.open}
            </button>
          </>
        )}
      </p>
    </>
  );
}

/** Returns why a text cannot be sent, or null. The service has two limits: bytes, and what the model reads. */
function useLimit(text: string): string | null {
  const { session, language } = useShared();
  const { limits } = session.socket;
  if (!limits || text.length < 200) return null;
  const bytes = new TextEncoder().encode(text).length;
  const most =
    limits.context === null ? limits.bytes : Math.min(limits.bytes, limits.context * BYTES_PER_TOKEN);
  const words = text.split(/\s+/).length;
  if (bytes <= most * HISTORY && (limits.context === null || words <= limits.context)) return null;
  const number = new Intl.NumberFormat(language.code);
  const room = limits.context === null ? null : Math.floor(limits.context * 0.7);
  const kilobytes = new Intl.NumberFormat(language.code, {
    style: "unit",
    unit: "kilobyte",
    maximumFractionDigits: 0,
  });
  const said = room === null ? kilobytes.format(most / 1000) : language.texts.words(number.format(room));
  return language.texts.tooLong(said);
}
