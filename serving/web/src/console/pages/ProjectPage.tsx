import { useRef, useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { Table, Waiting } from "../parts/basics";
import { CheckField, Problem, SelectField, TextField } from "../parts/fields";
import { LearningFields } from "../parts/LearningFields";
import { NewProject, ProjectKeys } from "../parts/NewProject";
import { RedactionField } from "../parts/RedactionField";
import { useMay, useMe } from "../roles";
import { say } from "../said";
import type { List, MadeProject, Project } from "../types";
import { time } from "../words";

/** What the project sets for its chats and its learning; and, where this project makes others, those. */
export function ProjectPage() {
  const me = useMe();
  const project = useData<Project>(me && `projects/${encodeURIComponent(me.project)}`);
  return (
    <>
      <h1>Project {me?.project}</h1>
      <Waiting on={project}>
        {(found) => <Chats key={found.id} project={found} onSaved={project.reload} />}
      </Waiting>
      {me?.makes_projects && <Projects />}
    </>
  );
}

function Chats({ project, onSaved }: { project: Project; onSaved: () => void }) {
  const [prompt, setPrompt] = useState(project.system_prompt ?? "");
  const [temperature, setTemperature] = useState(String(project.sampling["temperature"] ?? ""));
  const [length, setLength] = useState(String(project.sampling["max_tokens"] ?? ""));
  const [promotion, setPromotion] = useState(project.promotion ?? "");
  const [learning, setLearning] = useState(project.learning);
  const [cards, setCards] = useState(project.public_cards);
  const [redaction, setRedaction] = useState(project.redaction);
  const [kept, setKept] = useState(String(project.retention_days ?? ""));
  const [error, setError] = useState<string | null>(null);
  const saved = useRef(project); // as this form knows it
  const may = useMay("operate");

  async function save(event: Event) {
    event.preventDefault();
    const sampling = { ...saved.current.sampling };
    for (const [name, value] of Object.entries({ temperature, max_tokens: length })) {
      if (value) sampling[name] = Number(value);
      else delete sampling[name];
    }
    const form = {
      system_prompt: prompt || null,
      sampling,
      promotion: promotion || null,
      learning,
      public_cards: cards,
      redaction,
      retention_days: kept ? Number(kept) : null,
    };
    try {
      await ask(`projects/${encodeURIComponent(project.id)}`, "PATCH", changes(saved.current, form));
      saved.current = { ...saved.current, ...form };
      setError(null);
      say("Saved: it counts from the next chat on.");
      onSaved();
    } catch (refused) {
      setError(noteError(refused));
    }
  }

  return (
    <form class="card" aria-label="Chats of this project" onSubmit={save}>
      <label>
        System prompt of chats that bring none
        <textarea
          rows={5}
          maxLength={20_000}
          readOnly={!may}
          value={prompt}
          onInput={(event) => setPrompt(event.currentTarget.value)}
        />
      </label>
      <TextField
        label="Temperature; empty: as the base says"
        type="number"
        min={0}
        max={2}
        step="any"
        readOnly={!may}
        value={temperature}
        set={setTemperature}
      />
      <TextField
        label="Longest reply, tokens; empty: as the settings say"
        type="number"
        min={1}
        readOnly={!may}
        value={length}
        set={setLength}
      />
      <SelectField
        label="How a candidate goes live"
        value={promotion}
        disabled={!may}
        set={setPromotion}
      >
        <option value="">As the settings say</option>
        <option value="direct">Once the gate passes it</option>
        <option value="canary">When people on growing shares like it better</option>
        <option value="duel">When people who compare two replies like it better</option>
        <option value="manual">When an operator says so</option>
      </SelectField>
      <LearningFields learning={learning} disabled={!may} onChange={setLearning} />
      <CheckField
        label={`Anybody may read what a policy learned from and how it was judged, at /cards/${project.id}/POLICY`}
        checked={cards}
        disabled={!may}
        set={setCards}
      />
      <TextField
        label="Days for which chats and their votes are kept; empty: as the settings say"
        type="number"
        min={1}
        max={36_500}
        readOnly={!may}
        value={kept}
        set={setKept}
      />
      <RedactionField kinds={redaction} disabled={!may} onChange={setRedaction} />
      <Problem error={error} />
      {may && (
        <div class="buttons">
          <button type="submit" class="primary">
            Save
          </button>
        </div>
      )}
    </form>
  );
}

/** Returns what a form changes of a project: what somebody else has changed meanwhile stays. */
function changes(project: Project, form: Partial<Project>): Partial<Project> {
  const changed = Object.entries(form).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(project[name as keyof Project]),
  );
  return Object.fromEntries(changed);
}

function Projects() {
  const projects = useData<List<Project>>("projects?limit=1000");
  const [creating, setCreating] = useState(false);
  const [made, setMade] = useState<MadeProject | null>(null);
  const shown = (project: MadeProject) => {
    setMade(project);
    projects.reload();
  };
  return (
    <section aria-labelledby="projects">
      <div class="title">
        <h2 id="projects">All projects</h2>
        <button type="button" class="primary" onClick={() => setCreating(true)}>
          New project…
        </button>
      </div>
      <Waiting on={projects}>
        {(list) => (
          <Table label="Projects" head={["Project", "Since", "Training"]}>
            {list.data.map((each) => (
              <tr key={each.id}>
                <th scope="row" class="id">
                  {each.id}
                </th>
                <td>{time(each.created_at)}</td>
                <td>{each.paused ? "paused" : "goes on"}</td>
              </tr>
            ))}
          </Table>
        )}
      </Waiting>
      {creating && <NewProject onClose={() => setCreating(false)} onMade={shown} />}
      {made && <ProjectKeys of={made} onClose={() => setMade(null)} />}
    </section>
  );
}
