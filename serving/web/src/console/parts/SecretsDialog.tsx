import type { ComponentChildren } from "preact";
import { Dialog } from "./Dialog";

/** A dialog with secrets that are shown once: only its button closes it. */
export function SecretsDialog(props: {
  title: string;
  done: string;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const { title, done, onClose, children } = props;
  return (
    <Dialog title={title} stays onClose={onClose}>
      {children}
      <div class="buttons">
        <button type="button" class="primary" onClick={onClose}>
          {done}
        </button>
      </div>
    </Dialog>
  );
}
