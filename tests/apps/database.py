"""The SQL side of the shops: one connection for each thread, kept open, in the driver that SHOP_DB names."""

import os
import threading

_local = threading.local()
_driver = os.environ.get("SHOP_DB", "psycopg2")

if _driver == "psycopg2":
    import psycopg2 as driver
elif _driver == "psycopg":
    import psycopg as driver
elif _driver == "pymysql":
    import pymysql as driver
else:
    raise SystemExit(f"SHOP_DB={_driver}: expected psycopg2, psycopg or pymysql")

Error = driver.Error


def connect():
    if _driver == "pymysql":
        return driver.connect(
            host="127.0.0.1", port=int(os.environ["MYSQL_PORT"]), user="shop", password="shop", database="shop"
        )
    return driver.connect(host="127.0.0.1", port=int(os.environ["PG_PORT"]), user="postgres", dbname="shop")


def connection():
    current = getattr(_local, "connection", None)
    if current is None:
        current = _local.connection = connect()
    return current


def query(sql, parameters=()):
    """All rows of one statement, in a transaction of its own."""
    current = connection()
    try:
        with current.cursor() as cursor:
            cursor.execute(sql, parameters)
            rows = cursor.fetchall() if cursor.description else []
        current.commit()
        return rows
    except driver.Error:
        current.rollback()
        raise


def transaction(*statements):
    """Several statements in one transaction."""
    current = connection()
    try:
        with current.cursor() as cursor:
            for sql, parameters in statements:
                cursor.execute(sql, parameters)
        current.commit()
    except driver.Error:
        current.rollback()
        raise
