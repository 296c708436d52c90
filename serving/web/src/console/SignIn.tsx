import { useState } from "preact/hooks";
import { check, keepKey, request, sentence } from "./api";
import { Problem, TextField } from "./parts/fields";

/** Asks for an admin key, or another one that may read, and tries it before it is kept. */
export function SignIn({ onSignedIn }: { onSignedIn: () => void }) {
  const [key, setKey] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);

  async function signIn(event: Event) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await check(await request("console/whoami", {}, key.trim()));
      keepKey(key.trim());
      onSignedIn();
    } catch (refused) {
      setError(sentence(refused));
    }
    setBusy(false);
  }

  return (
    <main class="sign-in">
      <form onSubmit={signIn}>
        <img src="/icon.svg" alt="" width="40" height="40" />
        <h1>Hearken console</h1>
        <TextField
          label="Admin key"
          type="password"
          autocomplete="current-password"
          required
          aria-describedby="key-help"
          value={key}
          set={setKey}
        />
        <p id="key-help" class="quiet">
          The first start of <code>hearken up</code> printed it; a key with the role read works, too. It stays
          in this tab, and is forgotten when you close it.
        </p>
        <Problem error={error} />
        <button type="submit" class="primary" disabled={busy}>
          {busy ? "Trying the key…" : "Sign in"}
        </button>
      </form>
    </main>
  );
}
