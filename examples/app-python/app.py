"""A web app that counts its visits in a file.

VISITS_FILE    where it keeps them; the folder must be there
VISITS_FORMAT  count: the file has their number (the default)
               times: the file has a line for each, with its time
TZ             if it is set, a visitor is told the time there
DATABASE_FILE  a file with a database's address, in which is who signs in: scheme://NAME:PASSWORD@HOST
"""

import fcntl
import os
import socket
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response


class Counter:
    """The number of visits, in a file. Safe with several threads and processes, and when the power goes."""

    def __init__(self, file: Path):
        self.file = file

    def add(self) -> int:
        """Counts a visit, and returns how many there are now."""
        with locked(self.file):
            visits = self.read() + 1
            # Written aside and renamed: whoever reads finds the old number or the new one, and nothing else.
            aside = self.file.with_name(f".{self.file.name}.new")
            with aside.open("w") as new:
                new.write(f"{visits}\n")
                new.flush()
                os.fsync(new.fileno())
            aside.replace(self.file)
            return visits

    def read(self) -> int:
        try:
            return int(self.file.read_text())
        except FileNotFoundError:
            return 0


class Times:
    """The time of each visit, a line each."""

    def __init__(self, file: Path):
        self.file = file

    def add(self) -> int:
        """Adds a visit, and returns how many there are now."""
        now = datetime.now(timezone.utc).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
        with locked(self.file):
            with self.file.open("a") as times:
                times.write(f"{now}\n")
            return self.read()

    def read(self) -> int:
        with self.file.open() as times:
            return sum(1 for _ in times)


@contextmanager
def locked(file: Path):
    """Holds a lock that belongs to `file`. It is another file, since `file` itself may be replaced."""
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Closing it unlocks it.
        yield


def create_app(file: Path, file_format: str) -> Flask:
    app = Flask(__name__)
    visits = {"count": Counter, "times": Times}[file_format](file)
    name = socket.gethostname()

    @app.get("/")
    def visit() -> Response:
        count = visits.add()
        noun = "visit" if count == 1 else "visits"
        now = datetime.now().astimezone().strftime(", at %H:%M:%S %Z") if "TZ" in os.environ else ""
        return Response(f"{name}: {count} {noun}{now}\n", mimetype="text/plain")

    @app.get("/visits")
    def show() -> Response:
        text = file.read_text() if file.exists() else ""
        return Response(text, mimetype="text/plain")

    @app.get("/account")
    def account() -> Response:
        # It is read each time, as it may change. The password in it is for nobody.
        try:
            address = urlsplit(Path(os.environ["DATABASE_FILE"]).read_text().strip())
        except (KeyError, OSError):
            return Response(f"{name} has no account\n", status=404, mimetype="text/plain")
        return Response(f"{name} signs in as {address.username}\n", mimetype="text/plain")

    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    return app


def main() -> Flask:
    """What gunicorn serves."""
    file = Path(os.environ.get("VISITS_FILE", "visits"))
    return create_app(file, os.environ.get("VISITS_FORMAT", "count"))
