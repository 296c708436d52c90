import { useState } from "preact/hooks";
import { ask } from "../api";
import type { MadeProject } from "../types";
import { TextField } from "./fields";
import { FormDialog } from "./FormDialog";
import { Secret } from "./Secret";
import { SecretsDialog } from "./SecretsDialog";

/** Asks for the name of a new project, and makes it. */
export function NewProject({
  onClose,
  onMade,
}: {
  onClose: () => void;
  onMade: (project: MadeProject) => void;
}) {
  const [id, setId] = useState("");

  async function create() {
    const made = await ask<MadeProject>("projects", "POST", { id });
    onClose();
    onMade(made);
  }

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

/** The keys of a project that was just made. */
export function ProjectKeys({ of: made, onClose }: { of: MadeProject; onClose: () => void }) {
  return (
    <SecretsDialog title={`The keys of ${made.id}`} done="I have them" onClose={onClose}>
      <p>They are shown this once. The base answers this project from now on.</p>
      <Secret name="admin key" value={made.keys.admin} />
      <Secret name="secret key" value={made.keys.secret} />
      <Secret name="publishable key" value={made.keys.publishable} />
      <p>
        <a href={made.page} target="_blank" rel="noreferrer">
          Its chat, in a new tab
        </a>
      </p>
    </SecretsDialog>
  );
}
