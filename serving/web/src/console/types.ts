/** What the console's API answers (serving/console). */

export interface List<T> {
  data: T[];
  next_cursor?: string | null;
  count?: number;
  counted_up_to?: number;
}

export interface ReplyText {
  choice: number;
  policy: string;
  text: string;
}

export interface Vote {
  id: string;
  completion_id: string;
  choice: number | null;
  type: "thumb" | "ranking" | "edit" | "signal";
  value: {
    value?: "up" | "down";
    reasons?: string[];
    ranking?: number[][];
    acceptable?: boolean;
    signal?: string;
  };
  policy: string | null;
  user: string;
  created_at: string;
  superseded_by: string | null;
  retracted_at: string | null;
  comment: string | null;
  edit: string | null;
  conversation_id: string;
  metadata: Record<string, string>;
  prompt: string | null;
  replies: ReplyText[] | null;
  learned_by: string | null;
  live_at: string | null;
  learned_state: string | null;
  held_out: boolean;
  quarantined: boolean;
  weight?: number;
}

export interface Turn {
  id: string;
  conversation_id: string;
  user: string;
  created_at: string;
  metadata: Record<string, string>;
  prompt: string | null;
  messages: number;
  replies: (ReplyText & { propensity: number })[] | null;
  votes: {
    id: string;
    type: Vote["type"];
    choice: number | null;
    value: Vote["value"];
    comment: string | null;
  }[];
}

export interface Share {
  policy: string;
  share: number;
  role: "live" | "canary" | "holdback";
}

export interface Figures {
  people: number;
  votes: number;
  approval: number;
  low: number;
  high: number;
}

export interface Group extends Figures {
  name: string;
  steps: (Figures & { at: string })[];
}

export interface Approval {
  step: "hour" | "day" | "week";
  groups: Group[];
  holdback: Group | null;
}

export interface Check {
  name: string;
  found: string;
  limit: string;
  state: "good" | "unknown" | "refused" | "unjudged";
}

export interface Round {
  id: number;
  number: number;
  parent: string;
  policy: string | null;
  outcome: "running" | "published" | "rejected" | "skipped" | "failed";
  reason: string | null;
  headline: string;
  progress: { phase: string; done: number; steps: number; at: string } | null;
  started_at: string;
  ended_at: string | null;
  votes: number | null;
  verdict: string | null;
  seconds: number;
}

export interface Sample {
  prompt: string;
  before: string;
  after: string;
}

export interface Report extends Round {
  doubts: string[];
  checks: Check[];
  policy_state: string | null;
  votes_that_weighed_most: Vote[];
  record: {
    votes?: number;
    examples?: number;
    examples_new?: number;
    held_out?: number;
    prompts?: number;
    seconds?: number;
    optimization?: { steps: Record<string, number>[]; stopped: string | null };
    style?: { live: Record<string, number>; candidate: Record<string, number> };
    criteria?: Record<string, Criterion>;
    samples?: Sample[];
    blocked?: Record<string, string[]>;
    raters?: { rater: string; votes: number; weight: number; reliability: number; leniency: number }[];
    hyperparameters?: Record<string, Hyperparameter>;
    versions?: Record<string, string>;
    traceback?: string;
  };
}

/** A hyperparameter that was derived, and where its value comes from. */
export interface Hyperparameter {
  value: number;
  reason: string;
}

/** What votes mention about a criterion, and the shares of replies that meet it before and after a round. */
export interface Criterion {
  praises: number;
  blames: number;
  people: number;
  live: number;
  candidate: number;
  change: number;
  error: number;
  coefficient: number | null;
}

export interface Policy {
  id: string;
  parent: string | null;
  state: "published" | "canary" | "live" | "retired" | "rolled_back" | "rejected";
  reason: string | null;
  verdict: string | null;
  headline: string;
  created_at: string;
  live_at: string | null;
  pinned_at: string | null;
  pruned_at: string | null;
  examples: number | null;
  round: number | null;
  is_live: boolean | null;
  is_canary: boolean | null;
  is_previous: boolean | null;
}

export interface WholePolicy extends Policy {
  ancestors: string[];
  children: string[];
  doubts: string[];
  checks: Check[];
  samples: Sample[];
}

export interface Card {
  project: string;
  public: boolean;
  learned_from: {
    votes: number | null; // null: of too few people
    people: number | null;
    kinds: { type: string; value: string | null; votes: number }[];
  };
}

export interface Styles {
  one: Record<string, number>;
  other: Record<string, number>;
  samples: { prompt: string; one: string; other: string }[];
}

export interface Evidence {
  policy: string;
  live: string;
  mode: "direct" | "canary" | "duel";
  voters: number;
  share: number;
  automatic: boolean;
  decision: string;
  words: string;
  metrics: Record<string, Metric>;
  missing: string[];
}

/** The candidate against the other policy, with the bounds of the difference that hold at all times. */
export interface Metric {
  candidate: number;
  other: number;
  difference: number;
  low: number;
  high: number;
  harmed: boolean;
  people: number;
  other_people: number;
}

/** The approval of a policy by recorded votes, estimated before anybody saw a reply of it. */
export interface Estimate {
  approval: number;
  approval_lower: number;
  approval_upper: number;
  approval_change: number;
  approval_change_error: number;
  approval_votes: number;
  approval_people: number;
  approval_coverage: number;
}

export interface Rollout {
  id: string;
  policy: string;
  replaces: string;
  kind: "direct" | "canary" | "duel";
  share: number;
  automatic: boolean;
  state: "running" | "promoted" | "rolled_back" | "ended";
  reason: string | null;
  actor: string | null;
  started_at: string;
  ended_at: string | null;
  evidence: Evidence | null;
  estimate: Estimate | null;
}

export interface Preview {
  policy: string;
  now: Share[];
  then: Share[];
  changes: { policy: string; from: string; to: string }[];
  words: string;
  estimate: Estimate | null;
  needs_reason: boolean;
  way_back: string;
}

export interface Status {
  project: string;
  answering: {
    live: string;
    previous: string;
    canary: string | null;
    since: string | null;
    why: string;
    shares: Share[];
  };
  canary: Evidence | null;
  votes: { waiting: number; until_next_round: number; round_votes: number; newest: string | null };
  training: {
    state: "paused" | "running" | "waiting";
    active: boolean;
    round: Round | null;
    last: Round | null;
  };
  alerts: { severity: "page" | "ticket" | "info"; summary: string; remedy: string }[];
}

export interface Facets {
  policy: { name: string; votes: number }[];
  reason: { name: string; votes: number }[];
  tag: { name: string; votes: number }[];
}

export interface Queue {
  id: string;
  name: string;
  raters: number;
  items: number;
  names: string[];
  created_at: string;
}

export interface QueueProgress extends Queue {
  answers: Record<string, number>;
  complete: number;
  agreement: { compared: number; share: number | null; alpha: number | null };
}

export interface QueueItem {
  position: number;
  completion_id: string;
  messages: { role: string; content: unknown }[];
  replies: { choice: number; text: string }[];
}

export interface Setting {
  name: string;
  value: unknown;
  source: string;
  description: string;
}

export interface Key {
  id: string;
  name: string | null;
  kind: "admin" | "secret" | "publishable";
  roles: string[];
  origins: string[];
  quotas: Record<string, Record<string, number>>;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  previous_expires_at: string | null;
}

/** A key with its secret, which is in this answer only. */
export interface MadeKey extends Key {
  key: string;
}

export type PersonalData = "email" | "phone" | "iban" | "card" | "ip" | "national_id";

/** What a project sets for its learning; what is left out is as the settings say. */
export interface Learning {
  groups?: "mean" | "least_satisfied" | undefined;
  criteria_weights?: Record<string, number> | undefined;
  may_not_fall?: string[] | undefined;
  max_fall?: number | undefined;
  tainted_policy?: "keep" | "replace" | undefined;
}

export interface Project {
  id: string;
  system_prompt: string | null;
  sampling: Record<string, number>;
  promotion: string | null;
  learning: Learning;
  public_cards: boolean;
  redaction: PersonalData[] | null;
  retention_days: number | null;
  paused: boolean;
  created_at: string;
}

export interface MadeProject extends Project {
  keys: { admin: string; secret: string; publishable: string };
  page: string;
}

export type HeldState = "held" | "accepted" | "rejected";

/** A rater in quarantine; `evidence` has the figures of each reason. */
export interface HeldRater {
  id: number;
  rater: string;
  state: HeldState;
  reason: string;
  evidence: Record<string, Record<string, unknown>>;
  votes: number;
  created_at: string;
  decided_at: string | null;
  decided_by: string | null;
  decision_reason: string | null;
}

export interface WholeHeldRater extends HeldRater {
  samples: Vote[];
}

export interface HeldRaters {
  data: HeldRater[];
  has_more: boolean;
  counts: Partial<Record<HeldState, number>>;
}

/** What is held about a person, in figures, and what was asked to erase of it. */
export interface Person {
  pseudonyms: string[];
  turns: number;
  votes: number;
  learned_by: string[];
  erasures: { id: string; state: "running" | "done"; asked_at: string }[];
}

export interface Signed {
  policy: string;
  digest: string;
  rebuilds?: string;
}

export interface Erasure {
  id: string;
  state: "running" | "done";
  asked_at: string;
  asked_by: string;
  done_at: string | null;
  steps: ({ step: string; at: string } & Record<string, unknown>)[];
  waits_for: string | null;
  receipt: { tainted: Signed[]; rebuilt: Signed[]; public_key: string } | null;
}

export interface Counts {
  chats: number;
  votes: number;
  requests: number;
  refused: number;
  prompt_tokens: number;
  completion_tokens: number;
}

export interface Usage {
  days: (Counts & { day: string })[];
  keys: (Counts & { key: string; name: string | null })[];
  projects?: (Counts & { project: string })[];
}

export interface AuditEntry {
  id: number;
  at: string;
  actor: string;
  action: string;
  target: string;
  details: Record<string, string | { from: unknown; to: unknown }>;
}
