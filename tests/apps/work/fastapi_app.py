"""The work under FastAPI: uvicorn, hypercorn, gunicorn with uvicorn's worker."""

import contextlib

from fastapi import BackgroundTasks, FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse

import blocking
from coroutines import CLIENTS, Clients
from tokens import clients_of, expected_status


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.clients = Clients()
    app.state.clients.start_workers()
    yield
    await app.state.clients.close()


app = FastAPI(lifespan=lifespan)
blocking.start()


@app.get("/ping")
async def ping():
    return "pong"


@app.get("/work/{number}")
async def work(number: int, request: Request, after: BackgroundTasks):
    clients = request.app.state.clients
    after.add_task(clients.call, number, "after", clients_of(number, 0, CLIENTS, 1)[0])
    await clients.work(number)
    return number


@app.get("/stream/{number}")
async def stream(number: int, request: Request):
    return StreamingResponse(request.app.state.clients.parts(number), media_type="text/plain")


@app.websocket("/websocket/{number}")
async def websocket(number: int, socket: WebSocket):
    await socket.accept()
    async for client in socket.iter_text():
        await socket.app.state.clients.call(number, "websocket", client)
        await socket.send_text("done")


@app.get("/sync/{number}")
def in_a_thread(number: int):
    for client in clients_of(number, 0, blocking.CLIENTS, 3):
        blocking.call(number, "threadpool", client)
    return number


@app.get("/echo/{call}")
async def echo(call: str, request: Request):
    """The second service: two calls of its own, and the answer that the first one expects."""
    await request.app.state.clients.leaf(call)
    return Response(f"{call}\n", expected_status(call))
