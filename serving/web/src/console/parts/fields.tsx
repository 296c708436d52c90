import type { ComponentChildren } from "preact";

interface Input {
  type?: "number" | "password";
  min?: number;
  max?: number;
  step?: "any";
  required?: boolean;
  maxLength?: number;
  pattern?: string;
  readOnly?: boolean;
  autocomplete?: "current-password";
  "aria-describedby"?: string;
}

/** A line of text, or with a `type` a number. */
export function TextField({
  label,
  value,
  set,
  ...rest
}: Input & { label: string; value: string; set: (value: string) => void }) {
  return (
    <label>
      {label}
      <input {...rest} value={value} onInput={(event) => set(event.currentTarget.value)} />
    </label>
  );
}

/** A choice of one of the `<option>`s inside. */
export function SelectField(props: {
  label: string;
  value: string;
  set: (value: string) => void;
  disabled?: boolean;
  children: ComponentChildren;
}) {
  const { label, value, set, disabled, children } = props;
  return (
    <label>
      {label}
      <select value={value} disabled={disabled} onChange={(event) => set(event.currentTarget.value)}>
        {children}
      </select>
    </label>
  );
}

/** What is on or off. */
export function CheckField(props: {
  label: string;
  checked: boolean;
  set: (checked: boolean) => void;
  disabled?: boolean;
  required?: boolean;
}) {
  const { label, checked, set, disabled, required } = props;
  return (
    <label class="check">
      <input
        type="checkbox"
        checked={checked}
        disabled={disabled}
        required={required}
        onChange={(event) => set(event.currentTarget.checked)}
      />
      {label}
    </label>
  );
}

/** Why something was refused, read out at once. */
export function Problem({ error, children }: { error: string | null; children?: ComponentChildren }) {
  if (!error) return null;
  return (
    <p class="problem" role="alert">
      {error}
      {children}
    </p>
  );
}
