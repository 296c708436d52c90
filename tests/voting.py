"""What tests of voting share: turns without an engine, and /v1/feedback on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from feedback.store import Store
from schemas.database import AsyncPool
from schemas.settings import Settings
from schemas.turns import Reply, Turn
from serving import envelope, votes
from serving.auth import Keyring, Seals
from serving.fleet import Fleet
from serving.keys import ensure_keys, key_hash
from serving.limits import Limiter
from serving.metrics import Metrics

ADMIN = "sk-hearken-admin-0123456789"
SECRET = "sk-hearken-secret-0123456789"
PUBLIC = "pk-hearken-public-0123456789"
STRANGER = "sk-hearken-stranger-0123456789"  # the admin key of another project
SEALS = Seals(b"a secret of the tests")
CONTEXT = 256


def a_turn(
    id: str, *, replies: tuple[str, ...] = ("It is Paris.",), rater: str = "u_ada", project: str = "default"
) -> Turn:
    return Turn(
        id=id,
        project=project,
        conversation_id=f"conv-of-{id}",
        rater=rater,
        key_id=f"{project}-admin",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        prompt_token_ids=[1, 2, 3, 4, 5, 6],
        sampling={"temperature": 1.0},
        replies=[
            Reply(choice, "p0", 0.98, text, [7, 8, 0], [-0.1, -0.2, -0.3], "stop")
            for choice, text in enumerate(replies)
        ],
    )


async def add_keys(pool: AsyncPool) -> None:
    """The keys above; STRANGER in the project `other`."""
    await ensure_keys(pool, Settings(admin_key=ADMIN, public_key=PUBLIC))
    async with pool.connection() as connection:
        await connection.execute("insert into projects (id) values ('other')")
        for name, project, kind, key in [
            ("default-secret", "default", "secret", SECRET),
            ("other-admin", "other", "admin", STRANGER),
        ]:
            await connection.execute(
                "insert into keys (id, project, kind, hash) values (%s, %s, %s, %s)",
                [name, project, kind, key_hash(key)],
            )


@asynccontextmanager
async def serve_votes(pool: AsyncPool) -> AsyncIterator[str]:
    """The url of a server that only takes votes; its engine has a context of CONTEXT tokens."""
    app = FastAPI()
    app.include_router(votes.router)
    app.add_api_route("/metrics", lambda: PlainTextResponse(app.state.metrics.text()))
    envelope.install(app)
    state = SimpleNamespace(
        settings=Settings(),
        pool=pool,
        store=Store(pool),
        seals=SEALS,
        keyring=Keyring(pool),
        limiter=Limiter(1_000_000),
        fleet=Fleet([], context=CONTEXT),
        metrics=Metrics(),
    )
    for name, value in vars(state).items():
        setattr(app.state, name, value)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
