import { WebhookRefused } from "./errors.js";
import type { WebhookEvent } from "./types.js";

const PREFIX = "whsec_";
const ENCODER = new TextEncoder();

/** Returns the event of a webhook, whose `body` is as it came, of which not a character may change. It may be
 * `tolerance` seconds old. Throws WebhookRefused.
 *
 * A webhook may come twice: its header `webhook-id` tells you whether you have had it. */
export async function verifyWebhook(
  body: string,
  headers: Headers | Record<string, string | string[] | undefined>,
  secret: string,
  tolerance = 300,
): Promise<WebhookEvent> {
  const header = (name: string): string =>
    String((headers instanceof Headers ? headers.get(name) : headers[name]) ?? "");
  const [id, timestamp] = [header("webhook-id"), header("webhook-timestamp")];
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > tolerance) {
    throw new WebhookRefused("The webhook is too old, or its clock is wrong.");
  }
  const key = await crypto.subtle.importKey("raw", secretBytes(secret), { name: "HMAC", hash: "SHA-256" }, false, [
    "verify",
  ]);
  const signed = ENCODER.encode(`${id}.${timestamp}.${body}`);
  for (const each of header("webhook-signature").split(" ")) {
    const signature = each.startsWith("v1,") ? decoded(each.slice(3)) : null;
    if (signature && (await crypto.subtle.verify("HMAC", key, signature, signed))) {
      return JSON.parse(body) as WebhookEvent;
    }
  }
  throw new WebhookRefused("The webhook's signature is wrong.");
}

function secretBytes(secret: string): Uint8Array<ArrayBuffer> {
  const found = decoded(secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret);
  if (!found?.length) throw new WebhookRefused("The secret is none of a webhook: it is `whsec_` and base64.");
  return found;
}

function decoded(base64: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  } catch {
    return null;
  }
}
