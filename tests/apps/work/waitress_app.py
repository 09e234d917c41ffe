"""Waitress: one thread reads requests and writes answers, others handle them. `waitress_app.py PORT`."""

import sys

import waitress

from flask_app import app

waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=8, connection_limit=300)
