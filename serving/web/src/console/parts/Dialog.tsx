import type { ComponentChildren } from "preact";
import { useLayoutEffect, useId, useRef } from "preact/hooks";

/** A modal dialog; Escape and a click beside it close it unless it `stays`, and the focus goes back. */
export function Dialog(props: {
  title: string;
  stays?: boolean;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const { title, stays = false, onClose, children } = props;
  const dialog = useRef<HTMLDialogElement>(null);
  const pressed = useRef(false); // beside it: who selects text may let go there
  const name = useId();
  useLayoutEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    // Browsers let a second Escape close a dialog that refuses `cancel`, but not where the key itself is refused.
    const refuse = (event: KeyboardEvent): void => {
      if (stays && event.key === "Escape") event.preventDefault();
    };
    document.addEventListener("keydown", refuse, true);
    return () => {
      document.removeEventListener("keydown", refuse, true);
      if (before instanceof HTMLElement) setTimeout(() => before.focus());
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={name}
      onCancel={(event) => stays && event.preventDefault()}
      onClose={() => (stays ? dialog.current?.showModal() : onClose())} // as where a phone's Back closes it
      onMouseDown={(event) => (pressed.current = event.target === event.currentTarget)}
      onClick={({ target, currentTarget }) =>
        pressed.current && target === currentTarget && !stays && currentTarget.close()
      }
    >
      <div class="dialog">
        <h2 id={name}>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}
