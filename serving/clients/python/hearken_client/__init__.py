"""A client of Hearken for what OpenAI's clients have no name for: votes, sessions, turns, policies, rollouts
and webhooks."""

from hearken_client.client import AsyncHearken, Hearken
from hearken_client.errors import HearkenError
from hearken_client.webhooks import WebhookEvent, WebhookRefused, verify_webhook

__all__ = ["AsyncHearken", "Hearken", "HearkenError", "WebhookEvent", "WebhookRefused", "verify_webhook"]
