"""Asynchronous clients and the ways in which coroutines make calls with them."""

import asyncio
import os

import aiohttp
import anyio
import anyio.to_thread
import asyncpg
import httpx
import redis.asyncio

import blocking
from tokens import REDIS_SCRIPT, answered, clients_of, expected_status, here, token

HOST = "127.0.0.1"
UPSTREAM = int(os.environ.get("UPSTREAM_PORT", "0"))

CLIENTS = ["asyncpg", "httpxasync", "redisasync", "aiohttp"]


class Clients:
    """Clients with pools, which belong to one event loop."""

    def __init__(self, connections=6):
        self.httpx = httpx.AsyncClient(timeout=30)
        self.redis = redis.asyncio.Redis(host=HOST, port=int(os.environ["REDIS_PORT"]))
        self.aiohttp = aiohttp.ClientSession()
        self.postgres = asyncpg.create_pool(
            host=HOST,
            port=int(os.environ["PG_PORT"]),
            user="postgres",
            database="shop",
            min_size=1,
            max_size=connections,
        )
        self.opened = asyncio.ensure_future(self.open())
        self.jobs = asyncio.Queue()
        self.workers = []

    async def open(self):
        await self.postgres

    def start_workers(self):
        """Starts the tasks that serve all requests: to be called outside of any request."""
        self.workers = [asyncio.create_task(self.serve_jobs()) for _ in range(2)]

    async def serve_jobs(self):
        while True:
            job, done = await self.jobs.get()
            try:
                done.set_result(await self.call(*job))
            except Exception as error:
                done.set_exception(error)

    async def close(self):
        for worker in self.workers:
            worker.cancel()
        await self.httpx.aclose()
        await self.redis.aclose()
        await self.aiohttp.close()
        await self.postgres.close()

    async def make(self, name, client):
        """One call, which carries `name`."""
        if client == "asyncpg":
            await self.opened
            async with self.postgres.acquire() as connection:
                await connection.fetchval(f"SELECT pg_sleep(0.002), $1::int AS {here(name)}", 1)
        elif client == "redisasync":
            await self.redis.incr("calls")
            try:
                await self.redis.eval(REDIS_SCRIPT, 1, here(name))
            except redis.ResponseError as error:
                if not str(error).startswith(f"{name} "):
                    raise
        else:
            url = f"http://{HOST}:{UPSTREAM}/echo/"
            if client == "httpxasync":
                answer = await self.httpx.get(url + here(name))
                got = answer.status_code, answer.content
            else:
                async with self.aiohttp.get(url + here(name)) as answer:
                    got = answer.status, await answer.read()
            if got != (expected_status(name), f"{name}\n".encode()):
                raise RuntimeError(f"{name} was answered with {got}")
        answered(name)

    async def call(self, number, kind, client):
        """One call for a request, whichever task makes it."""
        await self.make(token(number, kind, client), client)

    async def leaf(self, name):
        """The calls of a service that was itself called with `name`."""
        await self.make(f"{name}__asyncpg", "asyncpg")
        await self.make(f"{name}__redisasync", "redisasync")

    async def work(self, number, without=()):
        """All calls of a request that a coroutine handles."""
        await asyncio.sleep(number % 5 / 1000)
        for position, (kind, (way, clients, count)) in enumerate(KINDS.items()):
            if kind not in without and (kind != "queue" or self.workers):
                await way(self, number, kind, clients_of(number, position, clients, count))

    async def parts(self, number):
        """Parts of an answer, with calls between them."""
        for client in clients_of(number, 0, CLIENTS, 3):
            yield f"before {client}\n".encode()
            await self.call(number, "stream", client)
        yield b"done\n"


async def _nested(clients, number, kind, names):
    async def inner(name):
        await asyncio.sleep(0)
        await clients.call(number, kind, name)

    for name in names:
        await inner(name)


async def _gather(clients, number, kind, names):
    await asyncio.gather(*(clients.call(number, kind, name) for name in names))


async def _task(clients, number, kind, names):
    for task in [asyncio.create_task(clients.call(number, kind, name)) for name in names]:
        await task


async def _task_group(clients, number, kind, names):
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(clients.call(number, kind, name))


async def _anyio(clients, number, kind, names):
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(clients.call, number, kind, name)


async def _deep(clients, number, kind, names):
    async def down(levels):
        if levels:
            await asyncio.create_task(down(levels - 1))
        else:
            await _gather(clients, number, kind, names)

    await down(4)


async def _to_thread(clients, number, kind, names):
    await asyncio.gather(*(asyncio.to_thread(blocking.call, number, kind, name) for name in names))


async def _anyio_thread(clients, number, kind, names):
    for name in names:
        await anyio.to_thread.run_sync(blocking.call, number, kind, name)


async def _executor(clients, number, kind, names):
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(None, blocking.call, number, kind, name) for name in names))


async def _pool(clients, number, kind, names):
    futures = [blocking.executor.submit(blocking.call, number, kind, name) for name in names]
    await asyncio.gather(*map(asyncio.wrap_future, futures))


_background_tasks = set()


async def _background(clients, number, kind, names):
    async def later():
        await asyncio.sleep(0.05)
        for name in names:
            await clients.call(number, kind, name)

    task = asyncio.create_task(later())
    _background_tasks.add(task)
    task.add_done_callback(_background_tasks.discard)


async def _queue(clients, number, kind, names):
    for name in names:
        done = asyncio.get_running_loop().create_future()
        clients.jobs.put_nowait(((number, kind, name), done))
        await done


#: Kind of call: how it is made, with which clients, and how many at once.
KINDS = {
    "nested": (_nested, CLIENTS, 2),
    "gather": (_gather, CLIENTS, 2),
    "task": (_task, CLIENTS, 2),
    "anyio": (_anyio, CLIENTS, 2),
    "deep": (_deep, CLIENTS, 2),
    "tothread": (_to_thread, blocking.CLIENTS, 1),
    "anyiothread": (_anyio_thread, blocking.CLIENTS, 1),
    "executor": (_executor, blocking.CLIENTS, 1),
    "pool": (_pool, blocking.CLIENTS, 1),
    "background": (_background, CLIENTS, 1),
    "queue": (_queue, CLIENTS, 1),
}
if hasattr(asyncio, "TaskGroup"):
    KINDS["taskgroup"] = (_task_group, CLIENTS, 2)

_shared = {}


def shared():
    """The clients of this process, for frameworks that don't say when they start."""
    if os.getpid() not in _shared:
        _shared[os.getpid()] = Clients()
    return _shared[os.getpid()]
