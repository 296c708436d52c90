"""The console output of `hearken up` is a welcome text, then selected log records of the child processes. In
a terminal they are part of a screen (`deploy.local.screen`)."""

import json
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from deploy.local.base_model import real_model_command
from deploy.local.prepare import describe_keys
from schemas.settings import Settings, load
from serving.keys import NewKeys


class PlainConsole:
    """Prints lines as they come."""

    def say(self, line: str) -> None:
        print(line, flush=True)

    def watching(self, settings: Settings) -> AbstractContextManager[None]:
        """Returns a block during which the installation runs."""
        self.say("Ctrl-C stops everything.\n")
        return nullcontext()


def welcome(settings: Settings, made: NewKeys) -> str:
    """Returns the addresses, the new keys if any were made, and first commands to try. The commands name a
    variable: what is in a command's arguments, every user of the machine can read."""
    address = f"http://{reachable(settings.host)}:{settings.port}"
    command = real_model_command(settings.model)
    lines = [
        "",
        f"Hearken is ready. Chat and vote in a browser: {address}/",
        f"Feedback, training and rollouts, with the admin key: {address}/console",
        *([f"This is the starter, a toy. A small real model: {command}"] if command else []),
        "",
        *describe_keys(made),
    ]
    if made.admin is not None:
        lines += [
            "Put the secret key into KEY, and any OpenAI client works:",
            """  printf 'Authorization: Bearer %s' "$KEY" | curl -H @- \\""",
            f"    {address}/v1/chat/completions -H 'Content-Type: application/json' \\",
            """    -d '{"model": "default", "messages": [{"role": "user", "content": "Hello!"}]}'""",
            "",
            "Watch it learn from simulated users with a hidden preference, in a project of their own:",
            f"  {_simulation(settings)}",
            "",
        ]
    return "\n".join(lines)


def _simulation(settings: Settings) -> str:
    """Returns the command that simulates users of this installation, for the shell that started it."""
    found = load()  # what the command has by itself
    given = [
        f"HEARKEN_{name.upper()}={getattr(settings, name)}"
        for name in ("host", "port")
        if getattr(settings, name) != getattr(found, name)
    ]
    folder = settings.data_dir.resolve()
    elsewhere = [] if folder == found.data_dir.resolve() else ["--data-dir", str(folder)]
    return shlex.join([*given, sys.argv[0], "simulate", *elsewhere])


def reachable(host: str) -> str:
    """Returns the address, as URLs have it, at which a server that listens on `host` is reached from here."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{address}]" if ":" in address else address


def log_printer(say: Callable[[str], None]) -> Callable[[str, str], None]:
    """Returns a function that prints a child's JSON log line if it is from the trainer, about a policy, or at
    least a warning."""

    def on_line(name: str, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        level = record.pop("level", "info")
        about_policy = str(record.get("event")).startswith("policy")
        if level in {"debug", "info"} and name != "trainer" and not about_policy:
            return
        event = record.pop("event", "")
        moment = str(record.pop("timestamp", ""))[11:19]
        rest = "  ".join(f"{key}={value}" for key, value in record.items() if key != "exception")
        say(f"{moment}  {name:8} {event}  {rest}")

    return on_line
