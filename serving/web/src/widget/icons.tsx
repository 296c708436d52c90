/** The icons, each of one or few strokes. */

import type { JSX } from "preact";

const PATHS = {
  up: "M7.5 10.5v9.5H4.8A1.3 1.3 0 0 1 3.5 18.7v-6.9a1.3 1.3 0 0 1 1.3-1.3zm0 0 3.9-6.9c1.5 0 2.7 1.2 2.7 2.7v3.2h4.6a2 2 0 0 1 2 2.3l-1 6.4a2.1 2.1 0 0 1-2.1 1.8H7.5",
  down: "M16.5 13.5V4h2.7a1.3 1.3 0 0 1 1.3 1.3v6.9a1.3 1.3 0 0 1-1.3 1.3zm0 0-3.9 6.9a2.7 2.7 0 0 1-2.7-2.7v-3.2H5.3a2 2 0 0 1-2-2.3l1-6.4A2.1 2.1 0 0 1 6.4 4H16.5",
  edit: "M4 20l1-4.2L16.3 4.5a1.8 1.8 0 0 1 2.5 0l.7.7a1.8 1.8 0 0 1 0 2.5L8.2 19zM14.5 6.3l3.2 3.2",
  again: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3L19.5 9M19.5 4.5V9H15",
  copy: "M9 9h9.5a1.5 1.5 0 0 1 1.5 1.5V19a1.5 1.5 0 0 1-1.5 1.5H10A1.5 1.5 0 0 1 8.5 19V9.5M15.5 9V5A1.5 1.5 0 0 0 14 3.5H5.5A1.5 1.5 0 0 0 4 5v8.5A1.5 1.5 0 0 0 5.5 15h3",
  send: "M12 19.5V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M8 7h8a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1z",
  plus: "M12 5v14M5 12h14",
  pair: "M5 5h4.2a1.5 1.5 0 0 1 1.5 1.5v11A1.5 1.5 0 0 1 9.2 19H5a1.5 1.5 0 0 1-1.5-1.5v-11A1.5 1.5 0 0 1 5 5zM14.8 5H19a1.5 1.5 0 0 1 1.5 1.5v11A1.5 1.5 0 0 1 19 19h-4.2a1.5 1.5 0 0 1-1.5-1.5v-11A1.5 1.5 0 0 1 14.8 5z",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  check: "M5 12.5l4.7 4.7L19 7.5",
  list: "M4.5 7h15M4.5 12h15M4.5 17h9",
  bin: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7",
  arrow: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  chat: "M4.5 6.5A2.5 2.5 0 0 1 7 4h10a2.5 2.5 0 0 1 2.5 2.5v7A2.5 2.5 0 0 1 17 16h-4.5L8 20v-4H7a2.5 2.5 0 0 1-2.5-2.5z",
  lock: "M7 11V8.5a5 5 0 0 1 10 0V11M6.5 11h11a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1z",
};

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg aria-hidden="true" viewBox="0 0 24 24">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** Hearken's mark: a voice, as bars. */
export function Mark(): JSX.Element {
  return (
    <svg class="mark" aria-hidden="true" viewBox="0 0 32 32">
      <rect width="32" height="32" rx="9" />
      <path d="M8.5 13v6M13.5 8.5v15M18.5 11.5v9M23.5 14v4" />
    </svg>
  );
}
