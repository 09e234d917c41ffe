"""The application behind the HTTP captures."""

import time

from flask import Flask, request

app = Flask(__name__)


@app.get("/hello")
def hello():
    return {"hello": request.args.get("name", "world")}


@app.get("/fail")
def fail():
    raise RuntimeError("on purpose")


@app.route("/echo", methods=["POST", "PUT"])
def echo():
    return request.get_data()


@app.get("/stream")
def stream():
    return (f"line {i}\n" * 20 for i in range(5)), 200, {"Content-Type": "text/plain"}


@app.get("/large")
def large():
    return "0123456789" * 900


@app.get("/empty")
def empty():
    return "", 204


@app.get("/slow")
def slow():
    time.sleep(1)
    return "late"
