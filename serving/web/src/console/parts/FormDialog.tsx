import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { noteError } from "../data";
import { Dialog } from "./Dialog";
import { Problem } from "./fields";

/** A dialog that asks for something and does it. `submit` closes it; what it throws is shown. */
export function FormDialog(props: {
  title: string;
  verb: string;
  danger?: boolean;
  disabled?: boolean;
  submit: () => Promise<void>;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const { title, verb, danger, disabled, submit, onClose, children } = props;
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);

  async function send(event: Event) {
    event.preventDefault();
    setBusy(true);
    try {
      await submit();
    } catch (refused) {
      setError(noteError(refused));
      setBusy(false);
    }
  }

  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={send}>
        {children}
        <Problem error={error} />
        <div class="buttons">
          <button type="submit" class={danger ? "danger" : "primary"} disabled={busy || disabled}>
            {busy ? "Working…" : verb}
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}
