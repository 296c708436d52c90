import { useEffect } from "preact/hooks";
import { useData } from "../data";
import { askedBy, STEPS } from "../erasures";
import { saveFile } from "../files";
import { Badge, Table, Waiting } from "../parts/basics";
import { href } from "../place";
import type { Erasure, Signed } from "../types";
import { time, words } from "../words";

const READ_AGAIN = 3_000; // milliseconds

/** One erasure: what was done when, what is left, and the signed receipt. */
export function ErasurePage({ id }: { id: string }) {
  const erasure = useData<Erasure>(`erasures/${encodeURIComponent(id)}`);
  const running = erasure.data?.state === "running";
  useEffect(() => {
    if (!running) return undefined;
    const timer = setInterval(erasure.reload, READ_AGAIN);
    return () => clearInterval(timer);
  }, [running, erasure.reload]);
  return (
    <>
      <p class="way">
        <a href={href(["people"])}>← People</a>
      </p>
      <Waiting on={erasure}>{(found) => <Shown erasure={found} />}</Waiting>
    </>
  );
}

function Shown({ erasure }: { erasure: Erasure }) {
  const done = new Map(erasure.steps.map((step) => [step.step, step]));
  return (
    <article class="report">
      <h1>
        Erasure <Badge tone={erasure.state === "done" ? "good" : "near"}>{erasure.state}</Badge>
      </h1>
      <p class="lead" role="status">
        {erasure.done_at
          ? `Done at ${time(erasure.done_at)}. The receipt says what was done, and proves it without this service.`
          : "Nothing from before is stored or learned from any more. What is left goes on by itself, also when a process dies."}
      </p>
      <div class="two">
        <section class="card" aria-labelledby="steps">
          <h2 id="steps">What was done</h2>
          <ol class="steps">
            {Object.entries(STEPS).map(([name, what]) => (
              <Step
                key={name}
                what={what}
                step={done.get(name)}
                otherwise={
                  erasure.state === "done" ? "not needed" : erasure.waits_for === name ? "next" : "later"
                }
              />
            ))}
          </ol>
        </section>
        <section class="card" aria-labelledby="receipt">
          <h2 id="receipt">The receipt</h2>
          <dl class="facts">
            <dt>Asked for</dt>
            <dd>
              {time(erasure.asked_at)} by {askedBy(erasure.asked_by)}
            </dd>
            <dt>Erasure</dt>
            <dd class="id">{erasure.id}</dd>
            {erasure.receipt && (
              <>
                <dt>Public key</dt>
                <dd class="id">{erasure.receipt.public_key}</dd>
              </>
            )}
          </dl>
          {erasure.receipt ? <Receipt erasure={erasure} /> : <p class="quiet">It is signed at the end.</p>}
        </section>
      </div>
      {erasure.receipt && <Policies name="What had learned from them" of={erasure.receipt.tainted} />}
      {erasure.receipt && <Policies name="Made again without them" of={erasure.receipt.rebuilt} />}
    </article>
  );
}

function Step(props: { what: string; step: Erasure["steps"][number] | undefined; otherwise: string }) {
  const { what, step, otherwise } = props;
  const figures = Object.entries(step ?? {}).filter(([name]) => name !== "step" && name !== "at");
  return (
    <li>
      {step ? (
        <Badge tone="good">done</Badge>
      ) : (
        <Badge tone={otherwise === "next" ? "near" : "plain"}>{otherwise}</Badge>
      )}{" "}
      {what}
      {step && (
        <div class="quiet">
          {time(step.at)}
          {figures.map(([name, value]) => `, ${words(name)} ${figure(value)}`).join("")}
        </div>
      )}
    </li>
  );
}

function Receipt({ erasure }: { erasure: Erasure }) {
  function save() {
    const text = JSON.stringify(erasure.receipt, null, 2);
    saveFile(`receipt-${erasure.id}.json`, new Blob([text], { type: "application/json" }));
  }
  return (
    <>
      <p>
        Anybody checks it with the public key, and asks nobody: <code>hearken erasures verify</code>. It names
        the person by a hash only.
      </p>
      <div class="buttons">
        <button type="button" class="primary" onClick={save}>
          Save the receipt
        </button>
      </div>
    </>
  );
}

function Policies({ name, of: policies }: { name: string; of: Signed[] }) {
  if (policies.length === 0) return null;
  const again = policies.some((each) => each.rebuilds);
  return (
    <section aria-label={name}>
      <h2>{name}</h2>
      <Table label={name} head={["Policy", ...(again ? ["Instead of"] : []), "Digest"]}>
        {policies.map((each) => (
          <tr key={each.policy}>
            <th scope="row" class="id">
              {each.policy}
            </th>
            {again && <td class="id">{each.rebuilds}</td>}
            <td class="id">{each.digest}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

function figure(value: unknown): string {
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
