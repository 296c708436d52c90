import { useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { href } from "../place";
import { Empty, PolicyLink, Shares, Waiting } from "../parts/basics";
import { Problem } from "../parts/fields";
import { ChangeDialog } from "../parts/ChangeDialog";
import { EvidenceView } from "../parts/EvidenceView";
import { Progress } from "../parts/Progress";
import { VoteRow } from "../parts/VoteRow";
import { say } from "../said";
import type { Approval, List, Status, Vote } from "../types";
import { ago, number, percent, plural, policyName, time } from "../words";

const SEVERITY = { page: "Now", ticket: "Soon", info: "Note" };

/** What answers now and why, the votes until the next round, and what needs a person. */
export function OverviewPage({
  status,
  error,
  reload,
}: {
  status: Status | null;
  error: string | null;
  reload: () => void;
}) {
  return (
    <>
      <h1>Overview</h1>
      <Waiting on={{ data: status, error, reload }}>
        {(shown) => <Shown status={shown} reload={reload} />}
      </Waiting>
    </>
  );
}

function Shown({ status, reload }: { status: Status; reload: () => void }) {
  const { answering, votes, training, alerts } = status;
  const [takingBack, setTakingBack] = useState(false);
  const newest = useData<List<Vote>>("console/votes?limit=5", ["votes"]);
  return (
    <div class="overview">
      <section class="card wide" aria-labelledby="answers">
        <h2 id="answers" class="big">
          {policyName(answering.live)} answers
        </h2>
        <p>
          {answering.why}{" "}
          {answering.since && answering.live !== "p0" && (
            <span class="quiet">Live since {time(answering.since)}.</span>
          )}
        </p>
        <Shares shares={answering.shares} />
        <Liked live={answering.live} />
        <div class="buttons">
          <a class="button" href={href(["policies", answering.live])}>
            Look at it
          </a>
          {answering.live !== "p0" && (
            <button type="button" class="operate" onClick={() => setTakingBack(true)}>
              Take it back…
            </button>
          )}
        </div>
      </section>
      <Alerts alerts={alerts} />
      {status.canary && (
        <section class="card wide" aria-labelledby="canary">
          <h2 id="canary">
            {status.canary.mode === "duel" ? "Duels" : "Canary"}: <PolicyLink id={status.canary.policy} />
          </h2>
          <EvidenceView evidence={status.canary} />
        </section>
      )}
      <section class="card" aria-labelledby="votes">
        <h2 id="votes">Votes</h2>
        <p class="figure">{votes.until_next_round ? number(votes.until_next_round) : "Enough"}</p>
        <p>
          {votes.until_next_round
            ? `more ${votes.until_next_round === 1 ? "vote starts" : "votes start"} the next round`
            : "for the next round"}
        </p>
        <Progress
          label="Votes until the next round"
          done={votes.waiting}
          of={votes.waiting + votes.until_next_round}
        />
        <p class="quiet">
          {plural(votes.waiting, "new vote")} since the last round
          {votes.newest && `; the newest ${ago(votes.newest)}`}.
        </p>
      </section>
      <Training training={training} reload={reload} />
      <section class="card wide" aria-labelledby="newest">
        <h2 id="newest">Newest votes</h2>
        <Waiting on={newest}>
          {(list) =>
            list.data.length ? (
              <>
                <ul class="votes">
                  {list.data.map((vote) => (
                    <VoteRow key={vote.id} vote={vote} />
                  ))}
                </ul>
                <a href={href(["feedback"])}>All feedback</a>
              </>
            ) : (
              <Empty>No votes yet. They appear here as people give them.</Empty>
            )
          }
        </Waiting>
      </section>
      {takingBack && (
        <ChangeDialog
          action="rollback"
          policy={answering.live}
          onClose={() => setTakingBack(false)}
          onDone={reload}
        />
      )}
    </div>
  );
}

/** How the live policy and the base are liked, by the thumbs of the last 30 days. */
function Liked({ live }: { live: string }) {
  const approval = useData<Approval>("console/approval?by=policy", ["votes"]);
  const groups = [live, "p0"].flatMap(
    (name) => approval.data?.groups.filter((group) => group.name === name) ?? [],
  );
  if (groups.length === 0) return null;
  return (
    <ul class="liked">
      {[...new Set(groups)].map((group) => (
        <li key={group.name}>
          <b>{percent(group.approval)}</b> of {plural(group.people, "person", "people")} like the replies of{" "}
          {policyName(group.name)}{" "}
          <span class="quiet">
            (between {percent(group.low)} and {percent(group.high)}, last 30 days)
          </span>
        </li>
      ))}
    </ul>
  );
}

function Alerts({ alerts }: { alerts: Status["alerts"] }) {
  return (
    <section class="card wide" aria-labelledby="alerts">
      <h2 id="alerts">Needs you</h2>
      {alerts.length === 0 && <p class="calm">Nothing. All is well.</p>}
      <ul class="alerts">
        {alerts.map((alert) => (
          <li key={alert.summary} class={alert.severity}>
            <b>
              <span class="severity">{SEVERITY[alert.severity]}</span> {alert.summary}
            </b>
            <span>{withCode(alert.remedy)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Shows what stands between backticks as code. */
function withCode(text: string) {
  return text.split("`").map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part));
}

function Training({ training, reload }: { training: Status["training"]; reload: () => void }) {
  const paused = training.state === "paused";
  const [error, setError] = useState<string | null>(null);
  async function change() {
    try {
      await ask(`training/${paused ? "resume" : "pause"}`, "POST");
      say(paused ? "Training continues." : "Training pauses after the current round. Chat and votes go on.");
      reload();
    } catch (refused) {
      setError(noteError(refused));
    }
  }
  const words = training.round
    ? `Round ${training.round.number} is running.`
    : paused
      ? "Paused."
      : "Waits for votes.";
  return (
    <section class="card" aria-labelledby="training">
      <h2 id="training">Training</h2>
      <p class="figure small">{words}</p>
      {training.round && <RoundProgress round={training.round} />}
      {training.last && (
        <p>
          Last: <a href={href(["rounds", String(training.last.id)])}>round {training.last.number}</a>.{" "}
          {training.last.headline}
        </p>
      )}
      <Problem error={error} />
      <div class="buttons operate">
        <button type="button" onClick={change}>
          {paused ? "Resume training" : "Pause training"}
        </button>
      </div>
    </section>
  );
}

export function RoundProgress({ round }: { round: NonNullable<Status["training"]["round"]> }) {
  const progress = round.progress;
  const phases: Record<string, string> = {
    reward_model: "Learning what people meant",
    optimizing: "Training",
    evaluating: "Before the gate",
  };
  const phase = progress ? (phases[progress.phase] ?? progress.phase) : "Reading votes";
  const share = progress?.steps ? progress.done / progress.steps : null;
  return (
    <>
      <Progress label={phase} done={share ?? 0} of={1} unknown={share === null} />
      <p class="quiet">
        {phase}
        {progress?.steps ? `: step ${progress.done + 1} of ${progress.steps} (${percent(share ?? 0)})` : "…"}
      </p>
    </>
  );
}
