import { useEffect, useState } from "preact/hooks";
import { ask, check, request } from "../api";
import { noteError, useData } from "../data";
import { saveFile } from "../files";
import { Badge, Empty, PolicyLink, Waiting } from "../parts/basics";
import { EraseDialog } from "../parts/EraseDialog";
import { ErasuresTable } from "../parts/ErasuresTable";
import { href } from "../place";
import { useMay } from "../roles";
import { say } from "../said";
import type { Erasure, List, Person } from "../types";
import { kindOfRater, number, time } from "../words";

/** What is held about a person, and their erasure. A name is never in the address, a pseudonym may be. */
export function PeoplePage({ known }: { known: string | undefined }) {
  const [typed, setTyped] = useState(known ?? "");
  const [found, setFound] = useState<{ user: string; person: Person } | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [reading, setReading] = useState(Boolean(known));
  const erasures = useData<List<Erasure>>("erasures?limit=50", ["votes", "policies"]);

  async function look(user: string) {
    setReading(true);
    try {
      const person = await ask<Person>(`console/people/${encodeURIComponent(user)}`);
      setFound({ user, person });
      setError(null);
    } catch (refused) {
      setFound(null);
      setError(noteError(refused));
    }
    setReading(false);
  }
  useEffect(() => {
    if (known) void look(known);
  }, [known]);

  return (
    <>
      <h1>People</h1>
      <p class="quiet">
        What this project holds about one person, as a file for them; and their erasure, with a signed receipt.
      </p>
      <form
        class="card"
        role="search"
        aria-label="A person"
        onSubmit={(event) => {
          event.preventDefault();
          void look(typed);
        }}
      >
        <label>
          A user as your server names them, or a pseudonym (u_…, v_…, a_…)
          <input
            type="search"
            required
            maxLength={512}
            autocomplete="off"
            spellcheck={false}
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        </label>
        <div class="buttons">
          <button type="submit" class="primary">
            Look
          </button>
        </div>
      </form>
      {error && (
        <p class="problem" role="alert">
          {error}
        </p>
      )}
      <div role="status">
        {reading && <p class="quiet loading">Reading…</p>}
        {found && !reading && <Held key={found.user} user={found.user} person={found.person} />}
      </div>
      <section aria-labelledby="erasures">
        <h2 id="erasures">Erasures</h2>
        <Waiting on={erasures}>
          {(list) =>
            list.data.length === 0 ? (
              <Empty>Nobody was erased.</Empty>
            ) : (
              <ErasuresTable of={list.data} />
            )
          }
        </Waiting>
      </section>
    </>
  );
}

function Held({ user, person }: { user: string; person: Person }) {
  const mayErase = [useMay("operate"), useMay("chat")].some(Boolean);
  const [erasing, setErasing] = useState(false);
  const [busy, setBusy] = useState(false);
  const nothing = person.turns + person.votes === 0;

  async function save() {
    setBusy(true);
    try {
      const answer = await request(`users/${encodeURIComponent(user)}`);
      await check(answer);
      saveFile("held-data.json", await answer.blob());
      say("Saved: all that is held about this person.");
    } catch (refused) {
      say(noteError(refused));
    }
    setBusy(false);
  }

  return (
    <section class="card" aria-labelledby="held">
      <h2 id="held">{nothing ? "No chats and no votes are held" : "What is held"}</h2>
      <dl class="facts">
        <dt>Chats</dt>
        <dd>{number(person.turns)}</dd>
        <dt>Votes</dt>
        <dd>{number(person.votes)}</dd>
        <dt>First learned by</dt>
        <dd>
          {person.learned_by.length === 0
            ? "no policy"
            : person.learned_by.map((policy) => (
                <span key={policy}>
                  <PolicyLink id={policy} />{" "}
                </span>
              ))}
        </dd>
        <dt>Kept under</dt>
        <dd>
          {person.pseudonyms.map((each) => (
            <div key={each}>
              <a class="id" href={href(["feedback"], { user: each })}>
                {each}
              </a>{" "}
              <span class="quiet">{kindOfRater(each)}</span>
            </div>
          ))}
        </dd>
        {person.erasures.length > 0 && (
          <>
            <dt>Erased before</dt>
            <dd>
              {person.erasures.map((each) => (
                <div key={each.id}>
                  <a href={href(["erasures", each.id])}>{time(each.asked_at)}</a>{" "}
                  <Badge tone={each.state === "done" ? "good" : "near"}>{each.state}</Badge>
                </div>
              ))}
            </dd>
          </>
        )}
      </dl>
      <div class="buttons">
        <button type="button" class="primary" onClick={() => void save()} disabled={busy}>
          {busy ? "Saving…" : "Save all of it"}
        </button>
        {mayErase && (
          <button type="button" class="danger" onClick={() => setErasing(true)}>
            Erase…
          </button>
        )}
      </div>
      {erasing && <EraseDialog user={user} person={person} onClose={() => setErasing(false)} />}
    </section>
  );
}
