export { Hearken, type VoteOptions } from "./client.js";
export { HearkenError, WebhookRefused } from "./errors.js";
export type * from "./types.js";
export { verifyWebhook } from "./webhooks.js";
