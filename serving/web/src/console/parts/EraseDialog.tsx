import { useState } from "preact/hooks";
import { ask } from "../api";
import { go } from "../place";
import { say } from "../said";
import type { Erasure, Person } from "../types";
import { plural } from "../words";
import { CheckField } from "./fields";
import { FormDialog } from "./FormDialog";

/** Says what is deleted and what is trained again, then erases the person. */
export function EraseDialog(props: { user: string; person: Person; onClose: () => void }) {
  const { user, person, onClose } = props;
  const [sure, setSure] = useState(false);

  async function erase() {
    const asked = await ask<Erasure>(`users/${encodeURIComponent(user)}`, "DELETE");
    say("They are being erased. This page says how far it has come.");
    onClose();
    go(["erasures", asked.id]);
  }

  return (
    <FormDialog title="Erase this person?" verb="Erase" danger submit={erase} onClose={onClose}>
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
      <CheckField label="Delete it for good" required checked={sure} set={setSure} />
    </FormDialog>
  );
}
