import { useState } from "preact/hooks";
import { ask } from "../api";
import type { MadeProject } from "../types";
import { Dialog } from "./Dialog";
import { TextField } from "./fields";
import { FormDialog } from "./FormDialog";
import { Secret } from "./Secret";

/** Makes a project, then shows its keys once. */
export function NewProject({ onClose, onMade }: { onClose: () => void; onMade: () => void }) {
  const [id, setId] = useState("");
  const [made, setMade] = useState<MadeProject | null>(null);

  async function create() {
    setMade(await ask<MadeProject>("projects", "POST", { id }));
    onMade();
  }

  if (made)
    return (
      <Dialog title={`The keys of ${made.id}`} onClose={onClose}>
        <p>They are shown this once. The base answers this project from now on.</p>
        <Secret name="admin key" value={made.keys.admin} />
        <Secret name="secret key" value={made.keys.secret} />
        <Secret name="publishable key" value={made.keys.publishable} />
        <p>
          <a href={made.page}>Its chat</a>
        </p>
        <div class="buttons">
          <button type="button" class="primary" onClick={onClose}>
            I have them
          </button>
        </div>
      </Dialog>
    );
  return (
    <FormDialog title="New project" verb="Create" submit={create} onClose={onClose}>
      <TextField
        label="Name, of lower-case letters, digits and dashes"
        required
        maxLength={48}
        pattern="[a-z0-9][a-z0-9\-]*"
        value={id}
        set={setId}
      />
    </FormDialog>
  );
}
