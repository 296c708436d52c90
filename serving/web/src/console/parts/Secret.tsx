import { say } from "../said";

/** A secret that is shown once, with a button that copies it. */
export function Secret({ name, value }: { name: string; value: string }) {
  async function copy() {
    await navigator.clipboard.writeText(value);
    say(`The ${name} is copied.`);
  }
  return (
    <p class="secret">
      <span>{name}</span> <code>{value}</code>{" "}
      <button type="button" onClick={() => void copy()}>
        Copy
      </button>
    </p>
  );
}
