"""Which policy answers a request: the one that its person is routed to, or one that an operator's key
pins."""

import re

from schemas.chat import DEFAULT_MODEL
from schemas.errors import Forbidden, NotFound
from serving.keys import Caller
from serving.router import Assignment, Route
from serving.services import Services

_POLICY_ID = re.compile(r"p\d+(-[0-9a-f]{6})?")


def assigned_policy(
    services: Services, caller: Caller, model: str, route: Route, person: str, conversation: str
) -> Assignment:
    """Returns the routed policy, or the one that an operator's key pins. A person keeps a policy; with direct
    promotion a conversation does, so that few people show sooner which is better. While no engine serves a
    candidate, its people are answered by the live policy, which was not drawn for them. Raises Forbidden or
    NotFound."""
    if model == DEFAULT_MODEL:
        direct = (route.promotion or services.settings.serving.promotion) == "direct"
        drawn = services.router.assign(route, f"{person} {conversation}" if direct else person)
        is_away = drawn.policy == route.canary and not services.fleet.serves(route.adapter(drawn.policy))
        return Assignment(route.live, 1.0) if is_away else drawn
    pinned_adapter(services, caller, model, route)
    return Assignment(model, 1.0)


def pinned_adapter(services: Services, caller: Caller, model: str, route: Route) -> str:
    """Returns the adapter of a policy that an operator's key pins. Raises Forbidden or NotFound."""
    if not caller.may("operate") and _POLICY_ID.fullmatch(model):
        raise Forbidden(f"Only a key with the role operate may choose a policy; use model {DEFAULT_MODEL}.")
    if model not in route.policies() or not services.fleet.serves(route.adapter(model)):
        raise NotFound(
            f"There is no model {model[:64]} here now; GET /v1/models lists those there are.",
            code="model_not_found",
            param="model",
        )
    return route.adapter(model)
