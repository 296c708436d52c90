import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { filterOf, isFiltered } from "../filter";
import { go, type Place } from "../place";
import { say } from "../said";
import type { List } from "../types";
import { Dialog } from "./Dialog";

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
        <label>
          Saved views
          <select
            value={chosen?.name ?? ""}
            onChange={(event) => open(views.data?.data ?? [], event.currentTarget.value)}
          >
            <option value="">Choose…</option>
            {views.data.data.map((view) => (
              <option key={view.name}>{view.name}</option>
            ))}
          </select>
        </label>
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
  const [error, setError] = useState<string | null>(null);
  async function save(event: Event) {
    event.preventDefault();
    try {
      await ask(`console/views/${encodeURIComponent(name.trim())}`, "PUT", { query });
      say(`Saved as ${name.trim()}.`);
      onSaved();
      onClose();
    } catch (refused) {
      setError(noteError(refused));
    }
  }
  return (
    <Dialog title="Save this view" onClose={onClose}>
      <form onSubmit={save}>
        <label>
          Name
          <input
            required
            maxLength={64}
            pattern="[^\/]*\S[^\/]*"
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        {error && (
          <p class="problem" role="alert">
            {error}
          </p>
        )}
        <div class="buttons">
          <button type="submit" class="primary">
            Save
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}
