"""Sentinels that need a password or TLS, and what their master lets its user do."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from deployments import make_certificate
from event_loops import asyncio_only
from redis_checks import MakeRedis, tls_options
from redis_server import RedisServer, Sentinel
from servers import free_port, give_back
from sserpent.channels import BrokerUnavailable, Channels

pytestmark = [pytest.mark.once, pytest.mark.anyio]


@pytest.fixture
def master(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


async def publish(url: str) -> None:
    channels = Channels(url, publish_timeout=10)
    rooms = channels.channel("rooms")
    async with channels, rooms.listen() as events:
        await rooms.publish(1)
        assert (await anext(events)).data == 1


@asyncio_only
async def test_a_sentinel_with_a_password(master: RedisServer) -> None:
    sentinel = Sentinel(master, requirepass="se%cret")
    try:
        await publish(f"{sentinel.url}?sentinel_password=se%25cret")
        for query in ("", "?sentinel_password=another"):
            async with Channels(sentinel.url + query, publish_timeout=1) as channels:
                with pytest.raises(BrokerUnavailable, match=r"(?i)authentication|password"):
                    await channels.channel("rooms").publish(1)
    finally:
        sentinel.close()


@asyncio_only
async def test_a_sentinel_with_a_user(master: RedisServer) -> None:
    sentinel = Sentinel(master, user="app on >secret +sentinel|get-master-addr-by-name")
    try:
        await publish(f"{sentinel.url}?sentinel_username=app&sentinel_password=secret")
    finally:
        sentinel.close()


@asyncio_only
async def test_a_sentinel_with_tls(master: RedisServer, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    port = free_port()
    sentinel = Sentinel(master, tls_port=str(port), **tls_options(tmp_path))
    try:
        trusted = f"sentinel_ssl_ca_certs={tmp_path}/site.crt"
        await publish(f"redis+sentinel://localhost:{port}/main/0?{trusted}")
    finally:
        sentinel.close()
        give_back(port)


@asyncio_only
async def test_a_sentinel_that_refuses_its_user_leaves_the_others_to_be_asked(
    master: RedisServer,
) -> None:
    both = [
        Sentinel(master, user="default on nopass -@all +info +ping +acl"),
        Sentinel(master),
    ]
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in both)
    try:
        await publish(f"redis+sentinel://{hosts}/main/0")
    finally:
        for each in both:
            each.close()


@asyncio_only
async def test_the_rights_that_the_page_names_are_enough_with_sentinel(master: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs/channels-redis.md").read_text(encoding="utf-8")
    (rights,) = re.findall(r"```text\n(~sserpent:[^`]+)```", page)
    (of_sentinel,) = re.findall(r"With Sentinel add `([^`]+)`", page)
    sentinel = Sentinel(master)
    url = sentinel.url.replace("//", "//app:secret@")
    try:
        master.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *rights.split())
        async with Channels(url, publish_timeout=60) as channels:
            with pytest.raises(BrokerUnavailable, match="'role' command"):
                await asyncio.wait_for(channels.channel("rooms").publish(1), 20)
        master.ask("ACL", "SETUSER", "app", *of_sentinel.split())
        await publish(url)
    finally:
        sentinel.close()
