"""One route of the shop with a line that runs in every request and one that never does, for
`cargo xtask bench breakpoint`. SHOP_LINES names what logs the line from inside: `monitoring`, `settrace` or `sdk`
(whose call is in the code; `sdk-off`: the SDK is started, and the code doesn't call it).
"""

import os
import sys

import redis
from flask import Flask, jsonify

import database

app = Flask(__name__)
cache = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


class Order:
    def __init__(self, number, name):
        self.number, self.name, self.lines = number, name, [("cake", 1), ("espresso", 2)]


def checkout(name, visits):
    order, currency, country, express = Order(visits, name), "EUR", "DE", False
    prices, rates = {"cake": 4.5, "espresso": 2.2}, [0.07, 0.19]
    net = sum(prices[line] * count for line, count in order.lines)
    tax = round(net * rates[1], 2)
    shipping, discount, points = 0.0, 0.0, int(net)
    customer = {"name": "ann", "plan": "pro", "address": {"city": "Berlin", "street": "Hauptstr. 1"}}
    if visits < 0:
        discount = net  # the line that never runs
    total = net + tax + shipping - discount  # the line that is hit
    return {"name": name, "visits": visits, "total": total, "points": points, "currency": currency}


def checkout_with_sdk(name, visits):
    order, currency, country, express = Order(visits, name), "EUR", "DE", False
    prices, rates = {"cake": 4.5, "espresso": 2.2}, [0.07, 0.19]
    net = sum(prices[line] * count for line, count in order.lines)
    tax = round(net * rates[1], 2)
    shipping, discount, points = 0.0, 0.0, int(net)
    customer = {"name": "ann", "plan": "pro", "address": {"city": "Berlin", "street": "Hauptstr. 1"}}
    if visits < 0:
        discount = net
    capture_snapshot("checkout", dict(locals()))
    total = net + tax + shipping - discount
    return {"name": name, "visits": visits, "total": total, "points": points, "currency": currency}


@app.get("/ping")
def ping():
    return "pong\n"


@app.get("/bench")
def bench():
    rows = database.query("SELECT name FROM products WHERE id = %s", (1,))
    return jsonify(buy(rows[0][0], cache.incr("visits")))


buy, LOGGER = checkout, os.environ.get("SHOP_LINES", "")
if LOGGER.startswith("sdk"):
    import tracekit

    # What it says about each snapshot goes to standard output.
    sys.stdout = open(os.devnull, "w")
    endpoint = "http://127.0.0.1:%s/v1/traces" % os.environ["SINK_PORT"]
    client = tracekit.init("key", "shop", endpoint, enable_code_monitoring=True)
    capture_snapshot = client.capture_snapshot
    buy = checkout_with_sdk if LOGGER == "sdk" else checkout
elif LOGGER:
    import line_loggers

    with open(__file__) as source:
        HIT = next(at for at, text in enumerate(source, 1) if text.rstrip().endswith("# the line that is hit"))
    start = {"monitoring": line_loggers.monitor, "settrace": line_loggers.trace}[LOGGER]
    start(checkout.__code__, HIT, line_loggers.OnceASecond())
