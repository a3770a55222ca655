"""Asks the health page again and again, each time on a new connection, until SIGTERM; then tells what came of it.

Prints `asked answered refused cut_off slowest_seconds`. Refused: no connection was had. Cut off: the connection was
had, and ended without an answer, because the agent that had taken it was killed.
"""

import signal
import socket
import sys
import time


class Ended(Exception):
    pass


def end(_signal, _frame):
    raise Ended


def ask():
    connection = socket.create_connection(("127.0.0.1", 8080), timeout=60)
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 ")
    except ConnectionError:
        return False
    finally:
        connection.close()


signal.signal(signal.SIGTERM, end)
asked = answered = refused = cut_off = 0
slowest = 0.0
try:
    while True:
        begin = time.monotonic()
        asked += 1
        try:
            if ask():
                answered += 1
            else:
                cut_off += 1
        except OSError as error:
            refused += 1
            print(f"refused: {error!r}", file=sys.stderr)
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(0.002)
except Ended:
    print(asked - 1, answered, refused, cut_off, f"{slowest:.3f}")
