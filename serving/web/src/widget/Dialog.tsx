/** A modal dialog: the browser keeps the focus in it, and gives it back. */

import type { ComponentChildren, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { useShared } from "./context.ts";
import { Icon } from "./icons.tsx";

interface Props {
  title: string;
  close: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, close, children }: Props): JSX.Element {
  const { texts } = useShared().language;
  const dialog = useRef<HTMLDialogElement>(null);
  const pressed = useRef(false); // beside it: who selects text may let go there
  useLayoutEffect(() => {
    const element = dialog.current;
    if (!element?.open) element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      class="dialog"
      part="dialog"
      aria-label={title}
      onClose={close}
      onKeyDown={(event) => event.key === "Escape" && event.stopPropagation()}
      onMouseDown={(event) => (pressed.current = event.target === dialog.current)}
      onClick={(event) => pressed.current && event.target === dialog.current && close()}
    >
      <div class="dialog-head">
        <h2>{title}</h2>
        <button class="icon" type="button" aria-label={texts.close} onClick={close}>
          <Icon name="close" />
        </button>
      </div>
      <div class="dialog-body">{children}</div>
    </dialog>
  );
}
