import { useState } from "preact/hooks";
import { ask } from "../api";
import { useData } from "../data";
import { Badge, Table, Waiting } from "../parts/basics";
import { TextField } from "../parts/fields";
import { FormDialog } from "../parts/FormDialog";
import { NewKeyForm } from "../parts/NewKeyForm";
import { Secret } from "../parts/Secret";
import { SecretsDialog } from "../parts/SecretsDialog";
import { say } from "../said";
import type { Key, List, MadeKey } from "../types";
import { ago, number, time } from "../words";

type Ending = { key: Key; action: "rotate" | "revoke" };

/** The project's keys: what each may do, from where, how much and until when. */
export function KeysPage() {
  const keys = useData<List<Key>>("keys");
  const [creating, setCreating] = useState(false);
  const [ending, setEnding] = useState<Ending | null>(null);
  const [made, setMade] = useState<MadeKey | null>(null);
  const shown = (key: MadeKey) => {
    setMade(key);
    keys.reload();
  };
  return (
    <>
      <div class="title">
        <h1>Keys</h1>
        <button type="button" class="primary" onClick={() => setCreating(true)}>
          New key…
        </button>
      </div>
      <p class="quiet">
        Publishable keys are for pages, secret ones for servers, admin ones for who runs this project. Only
        their hashes are stored.
      </p>
      <Waiting on={keys}>
        {(list) => (
          <Table label="Keys" head={["Key", "Kind", "May", "Pages", "A minute", "Ends", "Change"]}>
            {list.data.map((key) => (
              <Row key={key.id} of={key} end={(action) => setEnding({ key, action })} />
            ))}
          </Table>
        )}
      </Waiting>
      {creating && <NewKeyForm onClose={() => setCreating(false)} onMade={shown} />}
      {ending && <EndDialog {...ending} onClose={() => setEnding(null)} onDone={keys.reload} onMade={shown} />}
      {made && (
        <SecretsDialog
          title={`The secret of ${made.name ?? made.id}`}
          done="I have it"
          onClose={() => setMade(null)}
        >
          <p>It is shown this once. Put it where the key is used.</p>
          <Secret name="secret" value={made.key} />
          {made.previous_expires_at && <p>The one before is valid until {time(made.previous_expires_at)}.</p>}
        </SecretsDialog>
      )}
    </>
  );
}

function Row({ of: key, end }: { of: Key; end: (action: Ending["action"]) => void }) {
  return (
    <tr>
      <th scope="row">
        <bdi>{key.name ?? key.id}</bdi>
        {key.name && <div class="id quiet">{key.id}</div>}
      </th>
      <td>{key.kind}</td>
      <td>{key.roles.join(", ")}</td>
      <td class="words">{key.kind === "publishable" ? key.origins.join(", ") || "any" : ""}</td>
      <td>{quotas(key)}</td>
      <td>{ends(key)}</td>
      <td>
        {!key.revoked_at && (
          <div class="buttons">
            <button type="button" onClick={() => end("rotate")}>
              Rotate…
            </button>
            <button type="button" onClick={() => end("revoke")}>
              Revoke…
            </button>
          </div>
        )}
      </td>
    </tr>
  );
}

function quotas(key: Key) {
  const given = Object.entries(key.quotas).flatMap(([of, quota]) =>
    Object.entries(quota).map(([what, most]) => `${of}: ${number(most)} ${what}`),
  );
  return given.length ? given.map((line) => <div key={line}>{line}</div>) : "as the settings say";
}

function ends(key: Key) {
  if (key.revoked_at) return <Badge tone="bad">revoked {ago(key.revoked_at)}</Badge>;
  if (key.expires_at && Date.parse(key.expires_at) < Date.now()) return <Badge tone="bad">expired</Badge>;
  const old = key.previous_expires_at;
  return (
    <>
      {key.expires_at ? time(key.expires_at) : "never"}
      {old && Date.parse(old) > Date.now() && <div class="quiet">two secrets until {time(old)}</div>}
    </>
  );
}

function EndDialog(
  props: Ending & { onClose: () => void; onDone: () => void; onMade: (key: MadeKey) => void },
) {
  const { key, action, onClose, onDone, onMade } = props;
  const [hours, setHours] = useState("24");
  const name = key.name ?? key.id;

  async function change() {
    const path = `keys/${encodeURIComponent(key.id)}/${action}`;
    if (action === "rotate")
      onMade(await ask<MadeKey>(path, "POST", { overlap_seconds: Math.round(Number(hours) * 3600) }));
    else {
      await ask(path, "POST");
      say(`${name} is revoked.`);
      onDone();
    }
    onClose();
  }

  return (
    <FormDialog
      title={action === "rotate" ? `A new secret for ${name}?` : `Revoke ${name}?`}
      verb={action === "rotate" ? "Rotate" : "Revoke"}
      danger={action === "revoke"}
      submit={change}
      onClose={onClose}
    >
      {action === "rotate" ? (
        <TextField
          label="Hours for which the secret before stays valid, too"
          type="number"
          required
          min={0}
          max={720}
          value={hours}
          set={setHours}
        />
      ) : (
        <p>Every request and websocket with it is refused within seconds, for good.</p>
      )}
    </FormDialog>
  );
}
