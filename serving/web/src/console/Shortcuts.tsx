import { Dialog } from "./parts/Dialog";

export const SHORTCUTS = [
  { key: "o", path: [] as string[], name: "Overview" },
  { key: "f", path: ["feedback"], name: "Feedback" },
  { key: "q", path: ["queues"], name: "Queues" },
  { key: "v", path: ["raters"], name: "Raters" },
  { key: "e", path: ["people"], name: "People" },
  { key: "r", path: ["rounds"], name: "Rounds" },
  { key: "p", path: ["policies"], name: "Policies" },
  { key: "l", path: ["rollouts"], name: "Rollouts" },
  { key: "u", path: ["usage"], name: "Usage" },
  { key: "c", path: ["project"], name: "Project" },
  { key: "k", path: ["keys"], name: "Keys" },
  { key: "a", path: ["audit"], name: "Audit" },
  { key: "s", path: ["settings"], name: "Settings" },
];

export function Shortcuts({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Shortcuts" onClose={onClose}>
      <dl class="keys">
        {SHORTCUTS.map((each) => (
          <div key={each.key}>
            <dt>
              <kbd>g</kbd> <kbd>{each.key}</kbd>
            </dt>
            <dd>{each.name}</dd>
          </div>
        ))}
        <div>
          <dt>
            <kbd>j</kbd> <kbd>k</kbd>
          </dt>
          <dd>Next, last in a list; Enter opens</dd>
        </div>
        <div>
          <dt>
            <kbd>/</kbd>
          </dt>
          <dd>Search</dd>
        </div>
        <div>
          <dt>
            <kbd>u</kbd> <kbd>d</kbd> <kbd>1</kbd>…
          </dt>
          <dd>In a queue: good, bad, or the best reply</dd>
        </div>
        <div>
          <dt>
            <kbd>?</kbd>
          </dt>
          <dd>These keys</dd>
        </div>
      </dl>
      <div class="buttons">
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
