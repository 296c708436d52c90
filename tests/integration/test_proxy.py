"""Streams pass through nginx as they come, also where it compresses everything it can."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.ports import free_port
from tests.missing_programs import skip_reason
from tests.service import ADMIN, Service

CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_types *;
    gzip_proxied any;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {url};
            proxy_http_version 1.1;
        }}
    }}
}}
"""


@pytest.fixture
def proxied(service: Service, tmp_path: Path) -> Iterator[str]:
    """The address of nginx before the service."""
    executable = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if executable is None:
        assert os.environ.get("CI") != "true", "no nginx here, and CI must have one"
        pytest.skip(skip_reason("nginx"))
    port = free_port()
    file = tmp_path / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=port, url=service.url))
    process = subprocess.Popen([executable, "-e", "stderr", "-p", str(tmp_path), "-c", str(file)])
    try:
        deadline = time.monotonic() + 10
        while not _listens(port):
            assert process.poll() is None, "nginx ended while starting"
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


ASK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 60}


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/chat/completions", ASK), ("/v1/responses", {"input": "Hello", "max_output_tokens": 60})],
)
def test_a_stream_comes_in_many_reads(proxied: str, path: str, asked: dict[str, Any]) -> None:
    """Buffered, it would come in one or two."""
    body = {"model": "default", "stream": True, "temperature": 0, **asked}
    headers = {"Authorization": f"Bearer {ADMIN}", "Accept-Encoding": "gzip"}
    with httpx.stream("POST", proxied + path, json=body, headers=headers, timeout=60) as response:
        assert response.status_code == 200
        assert len(list(response.iter_raw())) > 5
