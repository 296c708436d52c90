/** A text of the model as Markdown, whose code is loaded with the first one; until then it is shown as it is. */

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useReducer, useRef } from "preact/hooks";
import { useShared } from "./context.ts";

type Renderer = typeof import("../text/markdown.ts");

let renderer: Renderer | null = null;

/** Loads the code for Markdown before it is needed. */
export async function loadMarkdown(): Promise<void> {
  renderer ??= await import("../text/markdown.ts");
}

interface Props {
  text: string;
  whole: boolean; // false while more is coming
  writing?: boolean;
}

export function Markdown({ text, whole, writing = false }: Props): JSX.Element {
  const { texts } = useShared().language;
  const box = useRef<HTMLDivElement>(null);
  const [loads, loaded] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    if (!renderer)
      void loadMarkdown().then(
        () => loaded(undefined as never),
        () => {},
      );
  }, []);
  useLayoutEffect(() => {
    if (renderer) box.current?.replaceChildren(renderer.render(text, texts, whole));
    else if (box.current) box.current.textContent = text;
  }, [text, whole, texts, loads]);
  return (
    <div class={writing ? "body writing" : "body"} aria-busy={writing || undefined}>
      <div class="text" dir="auto" ref={box} />
    </div>
  );
}
