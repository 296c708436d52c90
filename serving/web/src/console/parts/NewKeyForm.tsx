import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError } from "../data";
import type { Role } from "../roles";
import type { MadeKey } from "../types";
import { Dialog } from "./Dialog";

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
  const [error, setError] = useState<string | null>(null);

  async function create(event: Event) {
    event.preventDefault();
    const quotas = {
      ...(tokens ? { key: { tokens: Number(tokens) } } : {}),
      ...(personTokens ? { person: { tokens: Number(personTokens) } } : {}),
    };
    const pages = origins.split(/[\s,]+/).filter(Boolean);
    try {
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
    } catch (refused) {
      setError(noteError(refused));
    }
  }

  const amount = (label: string, value: string, set: (value: string) => void) => (
    <label>
      {label}
      <input type="number" min={1} value={value} onInput={(event) => set(event.currentTarget.value)} />
    </label>
  );
  return (
    <Dialog title="New key" onClose={onClose}>
      <form onSubmit={create}>
        <label>
          What it is for
          <input
            required
            maxLength={80}
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <label>
          Kind
          <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
            {Object.entries(KINDS).map(([value, words]) => (
              <option key={value} value={value}>
                {words}
              </option>
            ))}
          </select>
        </label>
        {kind === "secret" && (
          <fieldset>
            <legend>May</legend>
            {ROLES.map(([role, words]) => (
              <label key={role} class="check">
                <input
                  type="checkbox"
                  checked={roles.includes(role)}
                  onChange={(event) =>
                    setRoles(
                      event.currentTarget.checked
                        ? [...roles, role]
                        : roles.filter((each) => each !== role),
                    )
                  }
                />
                {words}
              </label>
            ))}
          </fieldset>
        )}
        {kind === "publishable" && (
          <label>
            Pages that may use it, as https://shop.example; none: any
            <input value={origins} onInput={(event) => setOrigins(event.currentTarget.value)} />
          </label>
        )}
        {amount("Tokens a minute, all together; empty: any number", tokens, setTokens)}
        {amount("Tokens a minute of each person; empty: any number", personTokens, setPersonTokens)}
        {amount("Days until it expires; empty: never", days, setDays)}
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
