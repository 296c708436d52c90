import { useState } from "preact/hooks";
import { ask } from "../api";
import type { Role } from "../roles";
import type { MadeKey } from "../types";
import { CheckField, SelectField, TextField } from "./fields";
import { FormDialog } from "./FormDialog";

const KINDS: Record<string, string> = {
  publishable: "Publishable: for a page",
  secret: "Secret: for a server or a person",
  admin: "Admin: for who runs this project",
};
const ROLES: [Role, string][] = [
  ["chat", "chat"],
  ["vote", "vote"],
  ["read", "read what is stored, and this console"],
  ["operate", "change what answers, and how"],
];

/** Asks what a new key may do, and makes it. */
export function NewKeyForm({ onClose, onMade }: { onClose: () => void; onMade: (key: MadeKey) => void }) {
  const [name, setName] = useState("");
  const [kind, setKind] = useState("publishable");
  const [roles, setRoles] = useState<Role[]>(["chat", "vote"]);
  const [origins, setOrigins] = useState("");
  const [tokens, setTokens] = useState("");
  const [personTokens, setPersonTokens] = useState("");
  const [days, setDays] = useState("");

  async function create() {
    const quotas = {
      ...(tokens ? { key: { tokens: Number(tokens) } } : {}),
      ...(personTokens ? { person: { tokens: Number(personTokens) } } : {}),
    };
    const pages = origins.split(/[\s,]+/).filter(Boolean);
    const made = await ask<MadeKey>("keys", "POST", {
      name,
      kind,
      quotas,
      ...(kind === "secret" ? { roles } : {}),
      ...(kind === "publishable" ? { origins: pages } : {}),
      ...(days ? { expires_at: new Date(Date.now() + Number(days) * 86_400_000).toISOString() } : {}),
    });
    onClose();
    onMade(made);
  }

  const amount = { type: "number", min: 1 } as const;
  return (
    <FormDialog title="New key" verb="Create" submit={create} onClose={onClose}>
      <TextField label="What it is for" required maxLength={80} value={name} set={setName} />
      <SelectField label="Kind" value={kind} set={setKind}>
        {Object.entries(KINDS).map(([value, words]) => (
          <option key={value} value={value}>
            {words}
          </option>
        ))}
      </SelectField>
      {kind === "secret" && (
        <fieldset>
          <legend>May</legend>
          {ROLES.map(([role, words]) => (
            <CheckField
              key={role}
              label={words}
              checked={roles.includes(role)}
              set={(may) => setRoles(may ? [...roles, role] : roles.filter((each) => each !== role))}
            />
          ))}
        </fieldset>
      )}
      {kind === "publishable" && (
        <TextField
          label="Pages that may use it, as https://shop.example; none: any"
          value={origins}
          set={setOrigins}
        />
      )}
      <TextField
        label="Tokens a minute, all together; empty: any number"
        {...amount}
        value={tokens}
        set={setTokens}
      />
      <TextField
        label="Tokens a minute of each person; empty: any number"
        {...amount}
        value={personTokens}
        set={setPersonTokens}
      />
      <TextField
        label="Days until it expires; empty: never"
        {...amount}
        max={36_500}
        value={days}
        set={setDays}
      />
    </FormDialog>
  );
}
