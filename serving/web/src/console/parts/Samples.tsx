import type { Sample } from "../types";

/** Replies to the same questions, before a round and after it. */
export function Samples({ samples }: { samples: Sample[] }) {
  if (samples.length === 0) return null;
  return (
    <section aria-labelledby="samples">
      <h2 id="samples">Before and after</h2>
      {samples.map((sample) => (
        <div key={sample.prompt} class="sample">
          <p class="asked">{sample.prompt}</p>
          <div class="before-after">
            <p>
              <span class="quiet">Before</span> {sample.before}
            </p>
            <p>
              <span class="quiet">After</span> {sample.after}
            </p>
          </div>
        </div>
      ))}
    </section>
  );
}
