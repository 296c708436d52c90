/** Short messages about what was just done, which screen readers say too. */

type Listener = (text: string) => void;

let listener: Listener = () => undefined;

export function say(text: string): void {
  listener(text);
}

export function onSaid(action: Listener): void {
  listener = action;
}
