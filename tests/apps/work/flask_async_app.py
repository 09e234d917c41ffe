"""The work in Flask's asynchronous views: each request has an event loop of its own, hence clients of its own."""

from flask import Flask

import blocking
from coroutines import Clients

app = Flask(__name__)
blocking.start()


@app.get("/ping")
async def ping():
    return "pong\n"


@app.get("/work/<int:number>")
async def work(number):
    clients = Clients(connections=1)
    try:
        # The loop, and with it what runs in the background, ends with the view.
        await clients.work(number, without=("background",))
    finally:
        await clients.close()
    return f"{number}\n"
