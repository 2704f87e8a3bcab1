"""The README's code runs, and says what is true."""

import re
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

import sserpent

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_python_block_runs(monkeypatch: Any) -> None:
    monkeypatch.setattr("sserpent._fastapi.routing._accelerated", False)
    namespace: dict[str, Any] = {"__name__": "readme"}
    assert len(blocks()) >= 4
    for block in blocks():
        exec(compile(block, "README.md", "exec"), namespace)
    client = TestClient(namespace["app"])
    assert client.get("/items").text == 'data: {"name":"Plumbus","price":32.99}\n\n'
    assert client.get("/prices").text == (
        'event: price\ndata: {"name":"Plumbus","price":32.99}\nid: 1\n\n'
    )


def test_every_option_is_named_with_its_name() -> None:
    for name in re.findall(r"^    (\w+) = ", blocks()[1], re.MULTILINE):
        assert hasattr(sserpent.EventSourceResponse, name)


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\":]+)\"", README)
    assert links
    for link in links:
        target = "".join(link)
        assert (Path(__file__).parents[2] / target).exists(), target
