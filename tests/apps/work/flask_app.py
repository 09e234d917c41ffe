"""The work under Flask: gunicorn's workers and waitress."""

from flask import Flask, Response

import blocking
from tokens import clients_of, expected_status

app = Flask(__name__)
blocking.patient()
blocking.start()


@app.get("/ping")
def ping():
    return "pong\n"


@app.get("/work/<int:number>")
def work(number):
    blocking.work(number)
    return f"{number}\n"


@app.get("/stream/<int:number>")
def stream(number):
    def parts():
        for client in clients_of(number, 0, blocking.CLIENTS, 3):
            yield f"before {client}\n"
            blocking.call(number, "stream", client)
        yield "done\n"

    return Response(parts(), mimetype="text/plain")


@app.get("/echo/<call>")
def echo(call):
    """The second service: two calls of its own, and the answer that the first one expects."""
    blocking.leaf(call)
    return f"{call}\n", expected_status(call)
