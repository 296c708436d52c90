"""Tests of voting share these helpers: turns without an engine, and /v1/feedback on a real socket."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from schemas.database import AsyncPool
from schemas.settings import ServingSettings, Settings, VllmSettings
from schemas.turns import Reply, Turn
from serving.app import create_app
from serving.keys import ensure_keys, key_hash
from serving.token_signer import TokenSigner
from tests.unlimited import UNLIMITED

ADMIN = "sk-hearken-admin-0123456789"
SECRET = "sk-hearken-secret-0123456789"
PUBLIC = "pk-hearken-public-0123456789"
STRANGER = "sk-hearken-stranger-0123456789"  # the admin key of another project
SIGNING_SECRET = b"a secret of the tests"
SIGNER = TokenSigner(SIGNING_SECRET)
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
        sampling={"temperature": 1.0, "top_p": 1.0},
        replies=[
            Reply(choice, "p0", 0.98, text, [7, 8, 0], [-0.1, -0.2, -0.3], "stop")
            for choice, text in enumerate(replies)
        ],
    )


async def add_keys(pool: AsyncPool) -> None:
    """Stores the keys and the signing secret above; STRANGER is a key of the project `other`."""
    await ensure_keys(pool, Settings(admin_key=ADMIN, public_key=PUBLIC))
    async with pool.connection() as connection:
        await connection.execute("insert into secrets (name, value) values ('seal', %s)", [SIGNING_SECRET])
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
async def serve_votes(
    database_url: str, *, serving: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[str]:
    """The url of the whole API, whose engine is not there and has a context of CONTEXT tokens: voting
    needs none."""
    with tempfile.TemporaryDirectory() as model, socket.create_server(("127.0.0.1", 0)) as listening:
        (Path(model) / "config.json").write_text(json.dumps({"max_position_embeddings": CONTEXT}))
        app = create_app(
            Settings(
                database_url=database_url,
                model=model,
                vllm=VllmSettings(urls=["http://127.0.0.1:9"]),
                serving=ServingSettings(**UNLIMITED, **(serving or {})),
                **settings,
            )
        )
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
