import { useState } from "preact/hooks";
import { ask } from "../api";
import { useData } from "../data";
import { Empty, Waiting } from "../parts/basics";
import { SelectField, TextField } from "../parts/fields";
import { FormDialog } from "../parts/FormDialog";
import { filterQuery } from "../filter";
import { go, href } from "../place";
import type { List, Queue } from "../types";
import { ago, plural } from "../words";

/** Queues of replies that several people rate. */
export function QueuesPage() {
  const queues = useData<List<Queue>>("console/queues");
  const [creating, setCreating] = useState(false);
  return (
    <>
      <div class="title">
        <h1>Queues</h1>
        <button type="button" class="primary operate" onClick={() => setCreating(true)}>
          New queue…
        </button>
      </div>
      <p class="quiet">
        A queue has replies that several people rate, blind to the policy and to each other. Their answers are
        votes.
      </p>
      <Waiting on={queues}>
        {(list) =>
          list.data.length ? (
            <ul class="rows">
              {list.data.map((queue) => (
                <li key={queue.id}>
                  <a class="row" data-row href={href(["queues", queue.id])}>
                    <span class="what">
                      <b>
                        <bdi>{queue.name}</bdi>
                      </b>
                      <span class="about">
                        <span>{plural(queue.items, "reply", "replies")}</span>
                        <span>{plural(queue.raters, "answer")} each</span>
                        <span>{queue.names.length ? queue.names.join(", ") : "nobody has begun"}</span>
                        <time dateTime={queue.created_at}>{ago(queue.created_at)}</time>
                      </span>
                    </span>
                  </a>
                </li>
              ))}
            </ul>
          ) : (
            <Empty>No queues yet.</Empty>
          )
        }
      </Waiting>
      {creating && <NewQueue onClose={() => setCreating(false)} />}
    </>
  );
}

function NewQueue({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [raters, setRaters] = useState("2");
  const [items, setItems] = useState("50");
  const [which, setWhich] = useState("");
  const views = useData<List<{ name: string; query: string }>>("console/views");
  async function create() {
    const view = views.data?.data.find((each) => each.name === which);
    const query = filterQuery(new URLSearchParams(view?.query ?? which), false);
    query.delete("all");
    const tags = query.getAll("tag");
    const filter = { ...Object.fromEntries(query), ...(tags.length ? { tag: tags } : {}) };
    const queue = await ask<Queue>("console/queues", "POST", {
      name,
      raters: Number(raters),
      items: Number(items),
      filter,
    });
    go(["queues", queue.id]);
  }
  return (
    <FormDialog title="New queue" verb="Create" submit={create} onClose={onClose}>
      <TextField label="Name" required maxLength={64} value={name} set={setName} />
      <SelectField label="Replies with these votes, newest first" value={which} set={setWhich}>
        <option value="">All votes</option>
        <option value="value=down">Bad ones</option>
        <option value="value=up">Good ones</option>
        <option value="type=edit">Edited ones</option>
        {(views.data?.data ?? []).map((view) => (
          <option key={view.name} value={view.name}>
            View: {view.name}
          </option>
        ))}
      </SelectField>
      <TextField label="Replies at most" type="number" min={1} max={500} value={items} set={setItems} />
      <TextField
        label="Answers to each, of different people"
        type="number"
        min={1}
        max={20}
        value={raters}
        set={setRaters}
      />
    </FormDialog>
  );
}
