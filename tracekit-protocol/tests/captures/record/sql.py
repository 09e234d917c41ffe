#!/usr/bin/env python3
"""Records what real clients and real servers say to each other.

Usage: sql.py OUTPUT_DIRECTORY [SCENARIO ...]

Starts PostgreSQL and MariaDB with temporary data directories on ports of their own, runs each
scenario below through a proxy that records both directions, and writes one JSON Lines file for each
connection: first {"protocol", "client", "note"}, then {"dir": "out"|"in", "hex"} as seen from the
client, at last {"close": "local"|"remote"}.

Needs: psycopg2-binary, psycopg[binary], asyncpg, pg8000, PyMySQL, aiomysql, mysql-connector-python;
initdb and postgres (PG_BIN, default: where pg_config says), mariadbd and mariadb-install-db, openssl.
Run as root (the servers are started as their own users) or as a user that may start both.
"""

import asyncio
import io
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

# Only one scenario wants encryption.
os.environ["PGSSLMODE"] = "disable"
PG_PORT, MY_PORT = 54329, 33069
OUT = pathlib.Path(sys.argv[1]).resolve()
ONLY = set(sys.argv[2:])


def as_user(name):
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam(name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def wait_for(port):
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


class Recorder:
    """A proxy for one scenario; every connection becomes a recording."""

    def __init__(self, port):
        self.target, self.recordings, self.threads = port, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            recording, lock = [], threading.Lock()
            self.recordings.append(recording)
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, name, close in (
                (client, server, "out", "local"),
                (server, client, "in", "remote"),
            ):
                thread = threading.Thread(
                    target=self.copy, args=(source, sink, name, close, recording, lock), daemon=True
                )
                thread.start()
                self.threads.append(thread)

    @staticmethod
    def copy(source, sink, name, close, recording, lock):
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            with lock:
                if not data:
                    if not recording or "close" not in recording[-1]:
                        recording.append({"close": close})
                    break
                recording.append({"dir": name, "hex": data.hex()})
            try:
                sink.sendall(data)
            except OSError:
                break
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        self.listener.close()
        for thread in list(self.threads):
            thread.join(5)


SCENARIOS = []


def scenario(protocol, client, note):
    def register(function):
        SCENARIOS.append((function.__name__, protocol, client, note, function))
        return function

    return register


def pg(port, **more):
    return {"host": "127.0.0.1", "port": port, "user": "app", "password": "s3cr3t-pw", **more}


def fails(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:  # the error is what is recorded
        return error
    raise AssertionError("no error")


@scenario("postgres", "psycopg2", "simple queries in a transaction, error, many rows, several statements")
def psycopg2_simple(port):
    import psycopg2

    connection = psycopg2.connect(dbname="shop", **pg(port))
    cursor = connection.cursor()
    cursor.execute("SELECT id, name FROM users WHERE name = %s", ("o'hara",))
    cursor.execute("INSERT INTO users (name) VALUES (%s), (%s)", ("x", "y"))
    cursor.execute("UPDATE users SET name = 'z' WHERE name = 'x'")
    cursor.execute("SELECT 1; SELECT 2; DELETE FROM users WHERE name = 'y'")
    connection.commit()
    fails(cursor.execute, "SELECT * FROM missing")
    connection.rollback()
    cursor.execute("SELECT n, repeat('x', 40) FROM generate_series(1, 400) n")
    cursor.execute("INSERT INTO users (name) VALUES ('r') RETURNING id")
    connection.rollback()
    connection.close()


@scenario("postgres", "psycopg2", "COPY in and out")
def psycopg2_copy(port):
    import psycopg2

    connection = psycopg2.connect(dbname="shop", **pg(port))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.copy_expert("COPY copied FROM STDIN", io.StringIO("".join(f"{n}\trow {n}\n" for n in range(50))))
    out = io.StringIO()
    cursor.copy_expert("COPY copied TO STDOUT", out)
    fails(cursor.copy_expert, "COPY copied FROM STDIN", io.StringIO("not a number\tx\n"))
    connection.close()


def beside(sql):
    """Runs a statement a little later, on a connection that is not recorded."""
    import psycopg2

    other = psycopg2.connect(dbname="shop", **pg(PG_PORT))
    other.autocommit = True
    threading.Timer(0.3, other.cursor().execute, (sql,)).start()


@scenario("postgres", "psycopg2", "cancelled, then by its time-out")
def psycopg2_cancel(port):
    import psycopg2

    connection = psycopg2.connect(dbname="shop", **pg(port))
    connection.autocommit = True
    cursor = connection.cursor()
    # psycopg2's own cancel() holds the interpreter lock, which the proxy needs.
    beside(f"SELECT pg_cancel_backend({connection.info.backend_pid})")
    fails(cursor.execute, "SELECT pg_sleep(5)")
    cursor.execute("SET statement_timeout = 100")
    fails(cursor.execute, "SELECT pg_sleep(5)")
    connection.close()


@scenario("postgres", "psycopg2", "the server ends the connection during a statement")
def psycopg2_killed(port):
    import psycopg2

    connection = psycopg2.connect(dbname="shop", **pg(port))
    connection.autocommit = True
    beside(f"SELECT pg_terminate_backend({connection.info.backend_pid})")
    fails(connection.cursor().execute, "SELECT pg_sleep(5)")
    connection.close()


@scenario("postgres", "psycopg", "server-side parameters, binary results, prepared after five executions")
def psycopg3_extended(port):
    import psycopg

    with psycopg.connect(dbname="shop", **pg(port)) as connection:
        for n in range(7):
            connection.execute("SELECT name FROM users WHERE id = %s", (n,))
        connection.cursor(binary=True).execute("SELECT id, %s::int FROM users", (5,))
        connection.execute("INSERT INTO users (name) VALUES (%s)", ("x",))
        fails(connection.execute, "SELECT 1 / %s", (0,))
        connection.rollback()
        fails(connection.execute, "SELEC %s", (1,))
        connection.rollback()
        cursor = connection.cursor("named")
        cursor.execute("SELECT n FROM generate_series(1, 5) n")
        cursor.fetchmany(2)
        cursor.close()


@scenario("postgres", "psycopg", "pipeline mode, with an error in the middle; executemany; COPY")
def psycopg3_pipeline(port):
    import psycopg

    with psycopg.connect(dbname="shop", autocommit=True, **pg(port)) as connection:
        with connection.pipeline():
            connection.execute("INSERT INTO users (name) VALUES (%s)", ("a",))
            connection.execute("SELECT id FROM users WHERE name = %s", ("a",))
            connection.execute("DELETE FROM users WHERE name = %s", ("a",))

        def broken():
            with connection.pipeline() as pipeline:
                connection.execute("SELECT %s::int", (1,))
                connection.execute("SELECT 1 / %s::int", (0,))
                connection.execute("SELECT %s::int", (3,))
                pipeline.sync()

        fails(broken)
        connection.cursor().executemany("INSERT INTO copied VALUES (%s, %s)", [(n, "m") for n in range(3)])
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            for n in range(10):
                copy.write_row((n, "row"))
        with connection.cursor().copy("COPY copied TO STDOUT") as copy:
            for _ in copy:
                pass


@scenario("postgres", "asyncpg", "prepared statements, introspection, errors, cursor, executemany, COPY")
def asyncpg_mixed(port):
    import asyncpg

    async def main():
        connection = await asyncpg.connect(database="shop", ssl=False, **pg(port))
        await connection.fetch("SELECT id, name FROM users WHERE id = $1", 1)
        await connection.fetch("SELECT id, name FROM users WHERE id = $1", 2)
        await connection.execute("CREATE TEMP TABLE tmp (a int)")
        await connection.execute("INSERT INTO tmp VALUES ($1)", 5)
        for sql in ("SELEC 1", "SELECT 1 / $1::int"):
            try:
                await connection.fetch(sql, *([0] if "$1" in sql else []))
            except asyncpg.PostgresError:
                pass
        async with connection.transaction():
            async for _ in connection.cursor("SELECT generate_series(1, 7)", prefetch=3):
                pass
        await connection.executemany("INSERT INTO tmp VALUES ($1)", [(n,) for n in range(3)])
        await connection.copy_records_to_table("tmp", records=[(1,), (2,)])
        await connection.fetch("SELECT n, repeat('y', 30) FROM generate_series(1, 500) n")
        try:
            await connection.fetch("SELECT pg_sleep(5)", timeout=0.2)
        except asyncio.TimeoutError:
            pass
        await connection.close()

    asyncio.run(main())


@scenario("postgres", "asyncpg", "a type the client does not know: it asks the catalogue")
def asyncpg_introspection(port):
    import asyncpg

    async def main():
        connection = await asyncpg.connect(database="shop", ssl=False, **pg(port))
        await connection.fetch("SELECT 'happy'::mood")
        await connection.close()

    asyncio.run(main())


@scenario("postgres", "pg8000", "each message with a Sync of its own")
def pg8000_mixed(port):
    import pg8000.dbapi

    connection = pg8000.dbapi.connect(database="shop", ssl_context=False, **pg(port))
    cursor = connection.cursor()
    cursor.execute("SELECT id FROM users WHERE name = %s", ("o'hara",))
    cursor.execute("INSERT INTO users (name) VALUES (%s)", ("p",))
    fails(cursor.execute, "SELECT * FROM missing WHERE a = %s", (1,))
    connection.rollback()
    connection.close()


@scenario("postgres", "psycopg2", "encryption asked for and granted: nothing to see")
def psycopg2_tls(port):
    import psycopg2

    connection = psycopg2.connect(dbname="shop", sslmode="require", **pg(port))
    connection.cursor().execute("SELECT 'hidden'")
    connection.close()


def my(port):
    return {"host": "127.0.0.1", "port": port, "user": "app", "password": "s3cr3t-pw", "database": "shop"}


@scenario("mysql", "PyMySQL", "text protocol: transaction, error, several results, many rows, other database")
def pymysql_text(port):
    import pymysql

    multi = pymysql.constants.CLIENT.MULTI_STATEMENTS
    connection = pymysql.connect(client_flag=multi, local_infile=True, **my(port))
    cursor = connection.cursor()
    cursor.execute("SELECT id, name FROM users WHERE name = %s", ("o'hara",))
    cursor.execute("INSERT INTO users (name) VALUES (%s), (%s)", ("x", "y"))
    cursor.execute("UPDATE users SET name = 'z' WHERE name = 'x'")
    cursor.execute("SELECT 1; SELECT 2 UNION SELECT 3; DELETE FROM users WHERE name = 'y'")
    while cursor.nextset():
        pass
    connection.commit()
    fails(cursor.execute, "SELECT * FROM missing")
    cursor.callproc("two_results", ())
    while cursor.nextset():
        pass
    connection.ping()
    cursor.execute("SELECT seq, repeat('x', 40) FROM seq_1_to_400")
    pathlib.Path("rows.tsv").write_text("".join(f"{n}\trow {n}\n" for n in range(30)))
    cursor.execute("LOAD DATA LOCAL INFILE 'rows.tsv' INTO TABLE copied")
    connection.select_db("other")
    cursor.execute("SELECT DATABASE()")
    cursor.execute("USE shop")
    cursor.execute("SELECT DATABASE()")
    connection.close()


@scenario("mysql", "PyMySQL", "cancelled with KILL QUERY, then by max_statement_time")
def pymysql_cancel(port):
    import pymysql

    connection = pymysql.connect(**my(port))
    cursor = connection.cursor()
    other = pymysql.connect(**{**my(MY_PORT)})
    thread = connection.thread_id()
    threading.Timer(0.3, lambda: other.cursor().execute(f"KILL QUERY {thread}")).start()
    fails(cursor.execute, "SELECT count(*) FROM seq_1_to_4000000000 a JOIN seq_1_to_4000000000 b")
    fails(
        cursor.execute,
        "SET STATEMENT max_statement_time=0.1 FOR SELECT count(*) FROM seq_1_to_4000000000 a, seq_1_to_4000 b",
    )
    connection.close()


@scenario("mysql", "mysql-connector-python (pure)", "text and prepared statements, header and body read apart")
def connector_pure(port):
    import mysql.connector

    connection = mysql.connector.connect(use_pure=True, ssl_disabled=True, **my(port))
    cursor = connection.cursor()
    cursor.execute("SELECT id, name FROM users WHERE name = %s", ("o'hara",))
    cursor.fetchall()
    cursor = connection.cursor(prepared=True)
    for n in range(3):
        cursor.execute("SELECT id, name FROM users WHERE id > %s", (n,))
        cursor.fetchall()
    cursor.execute("INSERT INTO users (name) VALUES (%s)", ("prepared",))
    fails(cursor.execute, "SELECT * FROM missing WHERE a = %s", (1,))
    connection.rollback()
    connection.cmd_reset_connection()
    connection.close()


@scenario("mysql", "mysql-connector-python (pure)", "change of user, and of database with it")
def connector_change_user(port):
    import mysql.connector

    connection = mysql.connector.connect(use_pure=True, ssl_disabled=True, **my(port))
    cursor = connection.cursor()
    cursor.execute("SELECT id, name FROM users")
    cursor.fetchall()
    cursor = connection.cursor(prepared=True)
    for n in range(2):
        cursor.execute("SELECT id, name FROM users WHERE id > %s", (n,))
        cursor.fetchall()
    connection.cmd_change_user("app", "s3cr3t-pw", "other")
    cursor = connection.cursor()
    cursor.execute("SELECT DATABASE()")
    cursor.fetchall()
    connection.close()


@scenario("mysql", "aiomysql", "text protocol from asyncio")
def aiomysql_text(port):
    import aiomysql

    async def main():
        settings = my(port)
        settings["db"] = settings.pop("database")
        connection = await aiomysql.connect(**settings)
        cursor = await connection.cursor()
        await cursor.execute("SELECT id FROM users WHERE name = %s", ("o'hara",))
        await cursor.executemany("INSERT INTO users (name) VALUES (%s)", [("a",), ("b",)])
        await connection.rollback()
        connection.close()

    asyncio.run(main())


@scenario("mysql", "mysql-connector-python (pure)", "compression: nothing to see")
def connector_compressed(port):
    import mysql.connector

    connection = mysql.connector.connect(use_pure=True, ssl_disabled=True, compress=True, **my(port))
    cursor = connection.cursor()
    cursor.execute("SELECT 'hidden'")
    cursor.fetchall()
    connection.close()


def postgres(directory):
    bin_directory = os.environ.get("PG_BIN") or subprocess.run(
        ["pg_config", "--bindir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    data = directory / "pg"
    data.mkdir(mode=0o700)
    if os.getuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    run = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **as_user("postgres"), "cwd": "/"}
    subprocess.run([f"{bin_directory}/initdb", "-D", data, "-U", "root", "-A", "trust"], check=True, **run)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "30",
         "-keyout", data / "server.key", "-out", data / "server.crt"],
        check=True, **run,
    )
    (data / "server.key").chmod(0o600)
    (data / "pg_hba.conf").write_text("host all root all trust\nhost all all all scram-sha-256\n")
    options = {"port": PG_PORT, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
               "fsync": "off", "ssl": "on"}
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    server = subprocess.Popen([f"{bin_directory}/postgres", "-D", data, *arguments], **run)
    wait_for(PG_PORT)
    import psycopg2

    time.sleep(1)
    for database, sql in (
        ("postgres", "CREATE USER app SUPERUSER PASSWORD 's3cr3t-pw'"),
        ("postgres", "CREATE DATABASE shop OWNER app"),
        ("shop", "CREATE TABLE users (id serial, name text); INSERT INTO users (name) VALUES ('o''hara'), ('b');"
                 "CREATE TABLE copied (n int, t text); CREATE TYPE mood AS ENUM ('happy', 'sad');"
                 "ALTER TABLE users OWNER TO app; ALTER TABLE copied OWNER TO app"),
    ):
        connection = psycopg2.connect(host="127.0.0.1", port=PG_PORT, user="root", dbname=database)
        connection.autocommit = True
        connection.cursor().execute(sql)
        connection.close()
    return server


def mariadb(directory):
    data = directory / "my"
    data.mkdir(mode=0o755)
    if os.getuid() == 0:
        shutil.chown(data, "mysql", "mysql")
    run = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **as_user("mysql"), "cwd": "/"}
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"],
        check=True, **run,
    )
    server = subprocess.Popen(
        ["mariadbd", "--no-defaults", f"--datadir={data}", f"--port={MY_PORT}", "--bind-address=127.0.0.1",
         f"--socket={data}/s", "--local-infile=1", "--skip-name-resolve", f"--pid-file={data}/pid", "--innodb-flush-log-at-trx-commit=0"],
        **run,
    )
    wait_for(MY_PORT)
    import pymysql

    connection = pymysql.connect(host="127.0.0.1", port=MY_PORT, user="root", autocommit=True)
    cursor = connection.cursor()
    for sql in (
        "CREATE DATABASE shop", "CREATE DATABASE other", "CREATE USER app IDENTIFIED BY 's3cr3t-pw'",
        "GRANT ALL ON *.* TO app", "CREATE TABLE shop.users (id int auto_increment primary key, name text)",
        "INSERT INTO shop.users (name) VALUES ('o''hara'), ('b')", "CREATE TABLE shop.copied (n int, t text)",
        "CREATE PROCEDURE shop.two_results() BEGIN SELECT 1; SELECT 2 UNION SELECT 3; END",
    ):
        cursor.execute(sql)
    connection.close()
    return server


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        directory.chmod(0o755)
        os.chdir(directory)
        # mysql-connector-python tells the server the name of its host.
        socket.gethostname = lambda: "client"
        servers = []
        try:
            servers += [postgres(directory), mariadb(directory)]
            for name, protocol, client, note, function in SCENARIOS:
                if ONLY and name not in ONLY:
                    continue
                recorder = Recorder(PG_PORT if protocol == "postgres" else MY_PORT)
                function(recorder.port)
                time.sleep(0.1)
                recorder.stop()
                for number, recording in enumerate(recorder.recordings):
                    suffix = f"_{number}" if number else ""
                    lines = [{"protocol": protocol, "client": client, "note": note}, *recording]
                    text = "".join(json.dumps(line) + "\n" for line in lines)
                    (OUT / f"{protocol}_{name}{suffix}.jsonl").write_text(text)
                    print(f"{name}{suffix}: {len(recording)} records, {len(text)} bytes")
        finally:
            for server in servers:
                # The data are thrown away.
                server.kill()
                server.wait()


main()
