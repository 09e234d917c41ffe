"""A product page of the shop under FastAPI: one SQL and one HTTP call, for the benchmark."""

import contextlib
import os

import asyncpg
import httpx
from fastapi import FastAPI, Request

PING = f"http://127.0.0.1:{os.environ['UPSTREAM_PORT']}/ping"


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.http = httpx.AsyncClient()
    app.state.postgres = await asyncpg.create_pool(
        host="127.0.0.1", port=int(os.environ["PG_PORT"]), user="postgres", database="shop", min_size=4, max_size=4
    )
    yield
    await app.state.postgres.close()
    await app.state.http.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/ping")
async def ping():
    return "pong"


@app.get("/bench")
async def bench(request: Request):
    state = request.app.state
    name = await state.postgres.fetchval("SELECT name FROM products WHERE id = $1", 1)
    answer = await state.http.get(PING)
    return {"name": name, "answer": answer.text}
