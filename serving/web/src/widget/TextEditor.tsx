/**
 * An editor in the place of a text: of a message, or of a reply as it should have been. It is no form, which a sandboxed
 * frame may not submit.
 */

import type { JSX } from "preact";
import { useLayoutEffect, useId, useRef } from "preact/hooks";

interface Props {
  text: string;
  label: string;
  hint: string;
  save: string;
  cancel: string;
  /** Gets the new text, or null when nothing is to change. */
  close: (text: string | null) => void;
}

export function TextEditor({ text, label, hint, save, cancel, close }: Props): JSX.Element {
  const input = useRef<HTMLTextAreaElement>(null);
  const hintId = useId();
  const fit = (): void => {
    const box = input.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  };
  useLayoutEffect(() => {
    fit();
    input.current?.focus();
  }, []);
  const submit = (): void => {
    const written = input.current?.value.trim() ?? "";
    if (written) close(written);
    else input.current?.focus();
  };
  return (
    <div
      class="editor"
      onKeyDown={(event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          close(null);
        }
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
      }}
    >
      <textarea
        ref={input}
        dir="auto"
        aria-label={label}
        aria-describedby={hintId}
        defaultValue={text}
        onInput={fit}
      />
      <div class="editor-end">
        <span class="aside" id={hintId}>
          {hint}
        </span>
        <button class="quiet" type="button" onClick={() => close(null)}>
          {cancel}
        </button>
        <button class="solid" type="button" onClick={submit}>
          {save}
        </button>
      </div>
    </div>
  );
}
