import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError } from "../data";
import type { MadeProject } from "../types";
import { Dialog } from "./Dialog";
import { Secret } from "./Secret";

/** Makes a project, then shows its keys once. */
export function NewProject({ onClose, onMade }: { onClose: () => void; onMade: () => void }) {
  const [id, setId] = useState("");
  const [made, setMade] = useState<MadeProject | null>(null);
  const [error, setError] = useState<string | null>(null);

  async function create(event: Event) {
    event.preventDefault();
    try {
      setMade(await ask<MadeProject>("projects", "POST", { id }));
      onMade();
    } catch (refused) {
      setError(noteError(refused));
    }
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
    <Dialog title="New project" onClose={onClose}>
      <form onSubmit={create}>
        <label>
          Name, of lower-case letters, digits and dashes
          <input
            required
            maxLength={48}
            pattern="[a-z0-9][a-z0-9\-]*"
            value={id}
            onInput={(event) => setId(event.currentTarget.value)}
          />
        </label>
        {error && (
          <p class="problem" role="alert">
            {error}
          </p>
        )}
        <div class="buttons">
          <button type="submit" class="primary">
            Create
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}
