import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { ask } from "../api";
import { noteError, useData } from "../data";
import { Table, Waiting } from "../parts/basics";
import { Progress } from "../parts/Progress";
import { go, href } from "../place";
import { say } from "../said";
import type { QueueItem, QueueProgress } from "../types";
import { number, percent } from "../words";

/** One queue: the next reply to rate, how far it has come, and how far its raters agree. */
export function QueuePage({ id }: { id: string }) {
  const path = `console/queues/${encodeURIComponent(id)}`;
  const queue = useData<QueueProgress>(path, ["votes"]);
  const [rater, setRater] = useState("");
  return (
    <>
      <p class="way">
        <a href={href(["queues"])}>← Queues</a>
      </p>
      <Waiting on={queue}>
        {(shown) => (
          <>
            <h1>
              <bdi>{shown.name}</bdi>
            </h1>
            {rater ? (
              <Rating path={path} rater={rater} onAnswer={queue.reload} />
            ) : (
              <Name onName={setRater} />
            )}
            <Standing queue={shown} />
            <button type="button" class="link operate" onClick={() => void remove(path)}>
              Delete this queue
            </button>
          </>
        )}
      </Waiting>
    </>
  );
}

async function remove(path: string): Promise<void> {
  try {
    await ask(path, "DELETE");
    say("The queue is gone; the votes that answered it stay.");
    go(["queues"]);
  } catch (refused) {
    say(noteError(refused));
  }
}

function Name({ onName }: { onName: (name: string) => void }) {
  const [name, setName] = useState("");
  return (
    <form
      class="filters"
      onSubmit={(event) => {
        event.preventDefault();
        onName(name.trim());
      }}
    >
      <label>
        Your name
        <input
          required
          maxLength={64}
          pattern=".*\S.*"
          value={name}
          onInput={(event) => setName(event.currentTarget.value)}
        />
      </label>
      <button type="submit" class="primary">
        Start rating
      </button>
    </form>
  );
}

function Rating({ path, rater, onAnswer }: { path: string; rater: string; onAnswer: () => void }) {
  const next = useData<{ item: QueueItem | null }>(`${path}/next?rater=${encodeURIComponent(rater)}`);
  const item = next.data?.item ?? null;
  const answered = useRef<string | null>(null); // a second key before the next reply is there is not meant for it

  async function answer(said: { value?: "up" | "down"; ranking?: number[][]; acceptable?: boolean }) {
    if (!item || answered.current === item.completion_id) return;
    answered.current = item.completion_id;
    try {
      await ask(`${path}/answers`, "POST", { rater, completion_id: item.completion_id, ...said });
      next.reload();
      onAnswer();
    } catch (refused) {
      answered.current = null;
      say(noteError(refused));
    }
  }

  const several = (item?.replies.length ?? 0) > 1;
  const best = (choice: number) => {
    const others = item?.replies.map((reply) => reply.choice).filter((each) => each !== choice) ?? [];
    return answer({ ranking: [[choice], others] });
  };
  useLayoutEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.target instanceof HTMLElement && event.target.closest("input, textarea, select, dialog"))
        return;
      // A shortcut of the browser or of the console (`g u`) is no answer.
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (!several && event.key === "u") void answer({ value: "up" });
      if (!several && event.key === "d") void answer({ value: "down" });
      const reply = several ? item?.replies[Number(event.key) - 1] : undefined;
      if (reply) void best(reply.choice);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [item?.completion_id]);

  return (
    <Waiting on={next}>
      {() =>
        item ? (
          <section class="card rating" aria-label="Reply to rate" data-completion={item.completion_id}>
            {item.messages.map((message, index) => (
              <p key={index} class={message.role === "user" ? "asked" : "replied"}>
                <bdi>
                  {typeof message.content === "string" ? message.content : JSON.stringify(message.content)}
                </bdi>
              </p>
            ))}
            <div class={several ? "before-after" : undefined}>
              {item.replies.map((reply, index) => (
                <div key={reply.choice} class="replied">
                  <p>
                    <bdi>{reply.text}</bdi>
                  </p>
                  {several && (
                    <button type="button" onClick={() => best(reply.choice)}>
                      This is best <kbd>{index + 1}</kbd>
                    </button>
                  )}
                </div>
              ))}
            </div>
            <div class="buttons">
              {several ? (
                <>
                  <button
                    type="button"
                    onClick={() => answer({ ranking: [item.replies.map((reply) => reply.choice)] })}
                  >
                    Equally good
                  </button>
                  <button
                    type="button"
                    onClick={() =>
                      answer({ ranking: [item.replies.map((reply) => reply.choice)], acceptable: false })
                    }
                  >
                    None is good
                  </button>
                </>
              ) : (
                <>
                  <button type="button" class="primary" onClick={() => answer({ value: "up" })}>
                    Good <kbd>u</kbd>
                  </button>
                  <button type="button" onClick={() => answer({ value: "down" })}>
                    Bad <kbd>d</kbd>
                  </button>
                </>
              )}
            </div>
          </section>
        ) : (
          <p class="calm" role="status">
            You have answered all that there is. Thank you, {rater}.
          </p>
        )
      }
    </Waiting>
  );
}

function Standing({ queue }: { queue: QueueProgress }) {
  const { agreement } = queue;
  return (
    <section aria-labelledby="standing">
      <h2 id="standing">So far</h2>
      <Progress label="Replies with all their answers" done={queue.complete} of={queue.items} />
      <p>
        {number(queue.complete)} of {number(queue.items)} have all their answers.{" "}
        {agreement.share === null
          ? "Two people must rate the same reply before their agreement can be told."
          : `On ${number(agreement.compared)} that several rated, ${percent(agreement.share)} of the pairs agree${
              agreement.alpha === null
                ? "."
                : ` (Krippendorff's alpha ${agreement.alpha.toFixed(2)}; 1 is full agreement, 0 is chance).`
            }`}
      </p>
      {queue.names.length > 0 && (
        <Table label="Raters" head={["Rater", "Answers"]}>
          {queue.names.map((name) => (
            <tr key={name}>
              <th scope="row">
                <bdi>{name}</bdi>
              </th>
              <td>{number(queue.answers[name] ?? 0)}</td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
