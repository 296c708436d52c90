// What the service answers; a newer service may add fields.

export type Stage =
  | "recorded"
  | "training"
  | "held_out"
  | "learned"
  | "awaiting_operator"
  | "tried"
  | "live"
  | "taken_back"
  | "superseded"
  | "retracted";

/** An acknowledged vote: `recorded` is durable; `spooled` waits on a disk while the database is away. */
export interface Recorded {
  id: string;
  completion_id: string;
  status: "recorded" | "spooled";
}

export interface Vote {
  id: string;
  completion_id: string;
  choice: number | null;
  type: "thumb" | "ranking" | "edit" | "signal";
  status: "recorded" | "superseded" | "retracted";
  created_at: string;
  superseded_by: string | null;
  learned: { policy: string; live_at: string | null } | null;
  life: { stage: Stage; votes_needed: number | null; progress: number | null; live_at: string | null };
}

/** A vote that was taken back. */
export interface Retracted {
  id: string;
  completion_id: string;
  status: "retracted";
}

/** A signed token that says who uses a page. */
export interface Session {
  token: string;
  expires_at: string;
}

/** A turn that Hearken did not write, on which people can vote; null for somebody who does not want it kept. */
export interface Turn {
  completion_id: string;
  conversation_id: string;
  feedback_token: string | null;
}

export interface Policy {
  id: string;
  parent: string | null;
  state: string;
  reason: string | null;
  gate: Record<string, unknown> | null;
  created_at: string;
  live_at: string | null;
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
  started_at: string;
  ended_at: string | null;
}

/** Where events are sent: all of them where `events` is empty. */
export interface Webhook {
  id: string;
  url: string;
  events: string[];
  created_at: string;
  disabled_at: string | null;
  failing_since: string | null;
  delivered_at: string | null;
}

/** A new webhook, with the secret that signs what is sent. It is shown this once. */
export interface NewWebhook {
  id: string;
  url: string;
  events: string[];
  created_at: string;
  secret: string;
}

export interface Delivery {
  id: string;
  type: string;
  state: "waiting" | "delivered" | "failed";
  attempts: number;
  due_at: string | null;
  delivered_at: string | null;
  status: number | null;
  error: string | null;
}

/** What happened; `data` depends on `type`. Events of votes have a list of them in `data.votes`. */
export interface WebhookEvent {
  type: string;
  timestamp: string;
  data: Record<string, unknown>;
}
