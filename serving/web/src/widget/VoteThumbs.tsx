/** The thumbs of `<hearken-vote>`, with reasons, and an edit where the reply's text is given. */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import type { Texts } from "../language/language.ts";
import { Icon } from "./icons.tsx";
import { options } from "./options.ts";
import { useQueue } from "./queue.ts";
import { TextEditor } from "./TextEditor.tsx";
import type { Cast, Retract } from "./vote_controls.tsx";

interface Props {
  element: HTMLElement;
  texts: Texts;
  cast: Cast;
  retract: Retract;
}

const MAX_REASONS = 8; // of one vote, as in the service

interface Thumb {
  id: string;
  value: "up" | "down";
  reasons: string[];
}

export function VoteThumbs({ element, texts, cast, retract }: Props): JSX.Element {
  const [thumb, setThumb] = useState<Thumb | null>(null);
  const [editing, setEditing] = useState(false);
  const recorded = useRef<Thumb | null>(null);
  const enqueue = useQueue();
  const choice = Number(element.getAttribute("choice") ?? 0);
  const text = element.getAttribute("text");
  const named = options((name) => element.getAttribute(name), {}, texts).reasons;

  const show = (next: Thumb | null): void => {
    recorded.current = next;
    setThumb(next);
  };
  const vote = async (value: "up" | "down", reasons: string[] = []): Promise<void> => {
    const id = await cast({ type: "thumb", choice, value, reasons });
    if (id) show({ id, value, reasons });
  };
  const press = (value: "up" | "down"): void =>
    enqueue(async () => {
      const now = recorded.current;
      if (now?.value !== value) await vote(value);
      else if (await retract(now.id)) show(null);
    });
  const toggle = (slug: string): void =>
    enqueue(async () => {
      const now = recorded.current;
      if (!now) return;
      const others = now.reasons.filter((each) => each !== slug);
      const added = others.length === now.reasons.length;
      await vote(now.value, added ? [...others, slug].slice(-MAX_REASONS) : others);
    });
  const edit = async (written: string | null): Promise<void> => {
    if (written === null || written === text || (await cast({ type: "edit", choice, text: written }))) {
      setEditing(false);
    }
  };

  return (
    <>
      <div class="tools" role="group" aria-label={texts.aboutReply}>
        {(["up", "down"] as const).map((value) => (
          <button
            key={value}
            class="icon"
            type="button"
            aria-label={value === "up" ? texts.good : texts.bad}
            aria-pressed={thumb?.value === value}
            onClick={() => press(value)}
          >
            <Icon name={value} />
          </button>
        ))}
        {text !== null && (
          <button
            class="icon"
            type="button"
            aria-label={texts.edit}
            aria-expanded={editing}
            onClick={() => setEditing(!editing)}
          >
            <Icon name="edit" />
          </button>
        )}
      </div>
      {thumb && (
        <div
          class="reasons"
          role="group"
          aria-label={thumb.value === "up" ? texts.whatWasGood : texts.whatWasWrong}
        >
          {named[thumb.value].map(([slug, label]) => (
            <button
              key={slug}
              class="chip"
              type="button"
              aria-pressed={thumb.reasons.includes(slug)}
              onClick={() => toggle(slug)}
            >
              <bdi>{label}</bdi>
            </button>
          ))}
        </div>
      )}
      {editing && (
        <TextEditor
          text={text ?? ""}
          label={texts.editorLabel}
          hint={texts.editorHint}
          save={texts.save}
          cancel={texts.cancel}
          close={(written) => void edit(written)}
        />
      )}
    </>
  );
}
