/** What the service and the chat tell each other. */

export interface ServiceError {
  code: string;
  message: string;
  retryAfter?: number | undefined;
}

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatRequest {
  messages: ChatMessage[];
  n: number;
  compare: number; // the share of messages that may get two replies to compare instead of one
  store: boolean;
  metadata: Record<string, string>;
}

export interface Completion {
  id: string;
  choices: { index: number; message: { content: string | null }; finish_reason: string }[];
  hearken: { feedback_token: string | null };
}

export interface Vote {
  completion_id: string;
  feedback_token: string;
  type: "thumb" | "ranking" | "edit" | "signal";
  choice?: number;
  value?: "up" | "down";
  reasons?: string[];
  comment?: string;
  ranking?: number[][];
  acceptable?: boolean;
  shown?: number[];
  text?: string;
  signal?: "regenerated" | "copied";
}

/** What a vote says, without what it is about. */
export type Opinion = Omit<Vote, "completion_id" | "feedback_token">;

export interface Recorded {
  id: string;
  completion_id: string;
  status: "recorded" | "spooled";
}

/** Whether the visitor's chats and votes are kept, as they chose; null: they chose nothing. */
export interface Choice {
  learning: boolean | null;
}

/** What has become of a vote: `GET /v1/feedback/{id}`. */
export interface Life {
  stage: string;
  votes_needed: number | null;
  progress: number | null;
  live_at: string | null;
}

/** How far an erasure has come. */
export interface Erasure {
  waits_for: string | null;
  done_at: string | null;
  receipt: object | null;
}

export interface Learned {
  feedback_id: string;
  completion_id: string;
  live_at: string;
}

/** The largest message, in bytes, and how much the model reads, in tokens (null: unknown). */
export interface Limits {
  bytes: number;
  context: number | null;
}

/** Which of two replies does the visitor prefer? `POST /v1/tastes/questions`; none after the last. */
export interface NextQuestion {
  question: { completion_id: string; feedback_token: string; prompt: string; replies: string[] } | null;
  answered: number;
  of: number;
  ready: boolean; // false: the questions are being made
}

/** How a project wants its chat to look: `GET /v1/widget`. */
export interface Appearance {
  name?: string;
  logo?: string;
  greeting?: string;
  examples?: string[];
  reasons?: { up?: Record<string, string>; down?: Record<string, string> };
  language?: string;
  accent?: string;
  consent?: "on" | "ask" | "off";
  card?: string; // path of what everybody may read of the live policy
  tastes?: boolean; // people here may be asked which replies they prefer
}
