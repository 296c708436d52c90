import { useData } from "../data";
import { PolicyLink, State, Table, Waiting } from "../parts/basics";
import { Chart } from "../parts/Chart";
import { Checks } from "../parts/Checks";
import { CriteriaTable } from "../parts/CriteriaTable";
import { HyperparameterTable } from "../parts/HyperparameterTable";
import { Samples } from "../parts/Samples";
import { StyleTable } from "../parts/StyleTable";
import { VoteRow } from "../parts/VoteRow";
import { href } from "../place";
import type { Report } from "../types";
import { duration, number, percent, person, time, words } from "../words";
import { RoundProgress } from "./OverviewPage";

const CURVES: [string, string][] = [
  ["reward", "Reward"],
  ["kl_per_reply", "Distance from the base (KL)"],
  ["mean_length", "Length, tokens"],
];

/** A round's report: the verdict first, then why, then all that it recorded. */
export function RoundPage({ id }: { id: string }) {
  const report = useData<Report>(`console/rounds/${encodeURIComponent(id)}`, ["rounds", "policies"]);
  return (
    <>
      <p class="way">
        <a href={href(["rounds"])}>← Rounds</a>
      </p>
      <Waiting on={report}>{(shown) => <Shown report={shown} />}</Waiting>
    </>
  );
}

function Shown({ report }: { report: Report }) {
  const { record } = report;
  return (
    <article class="report">
      <h1>
        Round {report.number} <State of={report.outcome} after />
      </h1>
      <p class="lead">{report.headline}</p>
      {report.outcome === "running" && <RoundProgress round={report} />}
      {report.verdict && <p class="verdict">{report.verdict}</p>}
      {report.doubts.length > 0 && (
        <ul class="doubts">
          {report.doubts.map((doubt) => (
            <li key={doubt}>{doubt}</li>
          ))}
        </ul>
      )}
      <Facts report={report} />
      {report.checks.length > 0 && (
        <section aria-labelledby="gate">
          <h2 id="gate">What the gate found</h2>
          <Checks checks={report.checks} />
        </section>
      )}
      {report.votes_that_weighed_most.length > 0 && (
        <section aria-labelledby="weighed">
          <h2 id="weighed">Votes that weighed most</h2>
          <ol class="votes weighed">
            {report.votes_that_weighed_most.slice(0, 10).map((vote) => (
              <VoteRow key={vote.id} vote={vote} />
            ))}
          </ol>
        </section>
      )}
      {record.blocked && (
        <section aria-labelledby="blocked">
          <h2 id="blocked">Replies that it is refused for</h2>
          <ul>
            {Object.entries(record.blocked).flatMap(([constraint, replies]) =>
              replies.map((reply, place) => (
                <li key={`${constraint} ${place}`}>
                  <span class="quiet">{words(constraint)}</span> {reply}
                </li>
              )),
            )}
          </ul>
        </section>
      )}
      <Samples samples={record.samples ?? []} />
      {record.style && (
        <section aria-labelledby="style">
          <h2 id="style">How it writes</h2>
          <StyleTable head={["before", "after"]} one={record.style.live} other={record.style.candidate} />
        </section>
      )}
      {record.criteria && Object.keys(record.criteria).length > 0 && (
        <section aria-labelledby="criteria">
          <h2 id="criteria">Why people vote</h2>
          <CriteriaTable criteria={record.criteria} />
        </section>
      )}
      {record.hyperparameters && (
        <section aria-labelledby="hyperparameters">
          <h2 id="hyperparameters">Hyperparameters</h2>
          <HyperparameterTable found={record.hyperparameters} />
        </section>
      )}
      <Steps report={report} />
      {record.raters && record.raters.length > 0 && (
        <section aria-labelledby="raters">
          <h2 id="raters">People who weighed most</h2>
          <Table
            label="People who weighed most"
            head={["Person", "Votes", "Weight", "Reliability", "Leniency"]}
          >
            {record.raters.map((rater) => (
              <tr key={rater.rater}>
                <th scope="row">
                  <a href={href(["feedback"], { user: rater.rater })}>{person(rater.rater)}</a>
                </th>
                <td>{number(rater.votes)}</td>
                <td>{percent(rater.weight, 1)}</td>
                <td>{rater.reliability.toFixed(2)}</td>
                <td>{rater.leniency.toFixed(2)}</td>
              </tr>
            ))}
          </Table>
        </section>
      )}
      <Details record={record} />
    </article>
  );
}

function Facts({ report }: { report: Report }) {
  const { record } = report;
  const facts: [string, preact.ComponentChildren][] = [
    ["Started from", <PolicyLink key="from" id={report.parent} />],
    ["Made", report.policy && <PolicyLink key="made" id={report.policy} />],
    ["It is now", report.policy_state && <State key="state" of={report.policy_state} />],
    [
      "Votes it learned from",
      record.examples !== undefined &&
        `${number(record.examples)}, of them new ${number(record.examples_new ?? 0)}`,
    ],
    ["Votes held back for the gate", record.held_out !== undefined && number(record.held_out)],
    ["Prompts it practised on", record.prompts !== undefined && number(record.prompts)],
    ["Began", time(report.started_at)],
    ["Took", report.ended_at && duration(report.seconds)],
  ];
  return (
    <dl class="facts">
      {facts
        .filter(([, value]) => value)
        .map(([name, value]) => (
          <>
            <dt key={name}>{name}</dt>
            <dd>{value}</dd>
          </>
        ))}
    </dl>
  );
}

function Steps({ report }: { report: Report }) {
  const steps = report.record.optimization?.steps ?? [];
  const curves = CURVES.filter(([name]) => steps.some((step) => name in step));
  if (steps.length < 2 || curves.length === 0) return null;
  return (
    <section aria-labelledby="steps">
      <h2 id="steps">Step by step</h2>
      {report.record.optimization?.stopped && <p>Stopped early: {report.record.optimization.stopped}.</p>}
      <div class="curves">
        {curves.map(([name, label]) => {
          const values = steps.map((step) => step[name] ?? null);
          return (
            <div key={name}>
              <h3>{label}</h3>
              <Chart
                label={`${label}, from ${values.at(0)} to ${values.at(-1)} in ${steps.length} steps`}
                x={steps.map((_, step) => step + 1)}
                lines={[{ label, values }]}
              />
            </div>
          );
        })}
      </div>
    </section>
  );
}

function Details({ record }: { record: Report["record"] }) {
  return (
    <>
      {record.traceback && (
        <details>
          <summary>Traceback</summary>
          <pre tabIndex={0}>{record.traceback}</pre>
        </details>
      )}
      <details>
        <summary>The whole record</summary>
        <dl class="facts">
          {Object.entries(record.versions ?? {}).map(([name, version]) => (
            <>
              <dt key={name}>{words(name)}</dt>
              <dd>{version}</dd>
            </>
          ))}
        </dl>
        <pre tabIndex={0}>{JSON.stringify(record, null, 2)}</pre>
      </details>
    </>
  );
}
