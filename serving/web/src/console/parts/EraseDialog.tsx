import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError } from "../data";
import { go } from "../place";
import { say } from "../said";
import type { Erasure, Person } from "../types";
import { plural } from "../words";
import { Dialog } from "./Dialog";

/** Says what is deleted and what is trained again, then erases the person. */
export function EraseDialog(props: { user: string; person: Person; onClose: () => void }) {
  const { user, person, onClose } = props;
  const [sure, setSure] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);

  async function erase(event: Event) {
    event.preventDefault();
    setBusy(true);
    try {
      const asked = await ask<Erasure>(`users/${encodeURIComponent(user)}`, "DELETE");
      say("They are being erased. This page says how far it has come.");
      onClose();
      go(["erasures", asked.id]);
    } catch (refused) {
      setError(noteError(refused));
      setBusy(false);
    }
  }

  return (
    <Dialog title="Erase this person?" onClose={onClose}>
      <form onSubmit={erase}>
        <p>
          {plural(person.turns, "chat")} and {plural(person.votes, "vote")} are deleted within seconds, and
          whatever else is kept of them. <b>Nothing brings them back.</b>
        </p>
        <p>
          {person.learned_by.length === 0
            ? "No policy learned from their votes. One that learned from their messages is found, and made again without them."
            : `${plural(person.learned_by.length, "policy", "policies")} learned from their votes. They, and what was trained from them, are made again without this person, and replaced once every engine has proved the result.`}
        </p>
        {person.pseudonyms.some((each) => each.startsWith("a_")) && (
          <p>
            This is nobody alone: all who chat without a session in one network are kept under one name, and
            are erased together.
          </p>
        )}
        <label class="check">
          <input
            type="checkbox"
            required
            checked={sure}
            onChange={(event) => setSure(event.currentTarget.checked)}
          />
          Delete it for good
        </label>
        {error && (
          <p class="problem" role="alert">
            {error}
          </p>
        )}
        <div class="buttons">
          <button type="submit" class="danger" disabled={busy}>
            {busy ? "Working…" : "Erase"}
          </button>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
        </div>
      </form>
    </Dialog>
  );
}
