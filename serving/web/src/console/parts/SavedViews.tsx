import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { filterOf, isFiltered } from "../filter";
import { go, type Place } from "../place";
import { say } from "../said";
import type { List } from "../types";
import { SelectField, TextField } from "./fields";
import { FormDialog } from "./FormDialog";

interface View {
  name: string;
  query: string;
}

/** Filters that were given a name, for all operators of the project. */
export function SavedViews({ place }: { place: Place }) {
  const views = useData<List<View>>("console/views");
  const [saving, setSaving] = useState(false);
  const here = filterOf(place.query).toString();
  const chosen = views.data?.data.find((view) => view.query === here);
  return (
    <>
      {views.data !== null && views.data.data.length > 0 && (
        <SelectField
          label="Saved views"
          value={chosen?.name ?? ""}
          set={(name) => open(views.data?.data ?? [], name)}
        >
          <option value="">Choose…</option>
          {views.data.data.map((view) => (
            <option key={view.name}>{view.name}</option>
          ))}
        </SelectField>
      )}
      {isFiltered(place.query) && !chosen && (
        <button type="button" class="operate" onClick={() => setSaving(true)}>
          Save this view…
        </button>
      )}
      {chosen && (
        <button type="button" class="link operate" onClick={() => void remove(chosen.name).then(views.reload)}>
          Delete this view
        </button>
      )}
      {saving && <Naming query={here} onClose={() => setSaving(false)} onSaved={views.reload} />}
    </>
  );
}

function open(views: View[], name: string): void {
  const view = views.find((each) => each.name === name);
  if (view) go(["feedback"], new URLSearchParams(view.query));
}

async function remove(name: string): Promise<void> {
  try {
    await ask(`console/views/${encodeURIComponent(name)}`, "DELETE");
    say(`The view ${name} is gone.`);
  } catch (refused) {
    say(noteError(refused));
  }
}

function Naming({ query, onClose, onSaved }: { query: string; onClose: () => void; onSaved: () => void }) {
  const [name, setName] = useState("");
  async function save() {
    await ask(`console/views/${encodeURIComponent(name.trim())}`, "PUT", { query });
    say(`Saved as ${name.trim()}.`);
    onSaved();
    onClose();
  }
  return (
    <FormDialog title="Save this view" verb="Save" submit={save} onClose={onClose}>
      <TextField
        label="Name"
        required
        maxLength={64}
        pattern="[^\/]*\S[^\/]*"
        value={name}
        set={setName}
      />
    </FormDialog>
  );
}
