"""A small shop on Flask: SQL, Redis and HTTP calls as any application makes them. Nothing in it traces.

The same routes are in shop_django and plain_http; tests/src/traffic.rs calls them.
"""

import os
import time

import redis
from flask import Flask, Response, abort, jsonify, request

import database
import downstream

app = Flask(__name__)
cache = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


@app.get("/ping")
def ping():
    return "pong\n"


@app.get("/products/<int:number>")
def product(number):
    key = f"product:{number}"
    seen = cache.get(key)
    rows = database.query("SELECT id, name, price FROM products WHERE id = %s", (number,))
    if not rows:
        abort(404)
    cache.set(key, rows[0][1], ex=60)
    return jsonify(id=rows[0][0], name=rows[0][1], cached=seen is not None)


@app.get("/bench")
def bench():
    """One SQL and one Redis call."""
    rows = database.query("SELECT name FROM products WHERE id = %s", (1,))
    return jsonify(name=rows[0][0], visits=cache.incr("visits"))


@app.post("/orders")
def order():
    note = request.get_data(as_text=True)[:100]
    database.transaction(
        ("INSERT INTO orders (product_id, quantity, note) VALUES (%s, %s, %s)", (1, 2, note)),
        ("UPDATE products SET stock = stock - %s WHERE id = %s", (2, 1)),
    )
    cache.incr("orders")
    return jsonify(ok=True), 201


@app.get("/gone")
def gone():
    abort(404)


@app.get("/boom")
def boom():
    raise RuntimeError("the shop is on fire")


@app.get("/sql-error")
def sql_error():
    try:
        database.query("SELECT * FROM no_such_table WHERE id = %s", (1,))
    except database.Error:
        return "the database said no\n", 500
    return "impossible\n"


@app.get("/conflict")
def conflict():
    try:
        database.query("INSERT INTO products (id, name, price, stock) VALUES (%s, %s, %s, %s)", (1, "twin", 1, 1))
    except database.Error:
        return "already there\n", 409
    return "impossible\n"


@app.get("/redis-error")
def redis_error():
    cache.set("greeting", "hello")
    try:
        cache.lpush("greeting", "not a list")
    except redis.ResponseError:
        return "wrong type\n", 500
    return "impossible\n"


@app.get("/pipeline")
def pipeline():
    with cache.pipeline(transaction=False) as batch:
        batch.set("pipeline:a", 1)
        batch.incr("pipeline:a")
        batch.get("pipeline:a")
        return jsonify(answers=len(batch.execute()))


@app.get("/transaction")
def transaction():
    with cache.pipeline(transaction=True) as batch:
        batch.set("transaction:a", 1)
        batch.incr("transaction:a")
        return jsonify(answers=len(batch.execute()))


@app.get("/call/<library>/<kind>")
@app.get("/call/<library>/<kind>/<argument>")
def call(library, kind, argument=""):
    path = f"/{kind}/{argument}?id={request.args.get('id', '')}"
    timeout = 0.15 if kind == "slow" else 5.0
    try:
        status, length = downstream.call(library, path, timeout=timeout)
    except downstream.FAILURES as error:
        return f"{type(error).__name__}\n", 502
    return jsonify(status=status, length=length)


@app.post("/forward/<library>")
def forward(library):
    path = f"/echo?id={request.args.get('id', '')}"
    status, length = downstream.call(library, path, method="POST", body=request.get_data())
    return jsonify(status=status, length=length)


@app.get("/checkout/<int:number>")
def checkout(number):
    """Everything at once, in order."""
    basket = {"number": number, "lines": [("espresso", 2), ("cake", 1)], "card_number": "4111 1111 1111 1111"}
    database.query("SELECT stock FROM products WHERE id = %s", (number,))
    cache.get(f"product:{number}")
    status, _ = downstream.call("requests", f"/status/200?id={request.args.get('id', '')}")
    database.query("UPDATE products SET stock = stock - 1 WHERE id = %s", (number,))
    cache.delete(f"product:{number}")
    return jsonify(status=status, lines=len(basket["lines"]))


@app.get("/stream")
def stream():
    return Response((f"line {number}\n" for number in range(20)), mimetype="text/plain")


@app.get("/sleep/<float:seconds>")
def sleep(seconds):
    time.sleep(seconds)
    return "awake\n"


@app.post("/upload")
def upload():
    return jsonify(length=len(request.get_data()))
