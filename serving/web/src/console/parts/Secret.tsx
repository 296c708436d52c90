import { useState } from "preact/hooks";

/** A secret that is shown once, with a button that copies it, where the browser can: on https and localhost. */
export function Secret({ name, value }: { name: string; value: string }) {
  const [said, setSaid] = useState("");
  function copy() {
    navigator.clipboard.writeText(value).then(
      () => setSaid("Copied."),
      () => setSaid("The browser does not allow it: select the secret, and copy it."),
    );
  }
  return (
    <p class="secret">
      <span>
        {name} <span role="status">{said}</span>
      </span>{" "}
      <code>{value}</code>{" "}
      {navigator.clipboard && (
        <button type="button" onClick={copy}>
          Copy
        </button>
      )}
    </p>
  );
}
