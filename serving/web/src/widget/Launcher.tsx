/** The button in the corner of a page, and the panel that it opens. */

import type { ComponentChildren, JSX } from "preact";
import { Icon } from "./icons.tsx";

interface Props {
  label: string;
  direction: "ltr" | "rtl";
  name: string;
  open: boolean;
  toggle: () => void;
  children: ComponentChildren;
}

export function Launcher({ label, direction, name, open, toggle, children }: Props): JSX.Element {
  return (
    <div class="corner" dir={direction}>
      {children && (
        <div
          class="panel"
          part="panel"
          role="dialog"
          aria-label={name}
          hidden={!open}
          onKeyDown={(event) => event.key === "Escape" && !event.defaultPrevented && toggle()}
        >
          {children}
        </div>
      )}
      <button
        class="launcher"
        part="launcher"
        type="button"
        aria-label={label}
        aria-expanded={open}
        onClick={toggle}
      >
        <Icon name={open ? "arrow" : "chat"} />
      </button>
    </div>
  );
}
