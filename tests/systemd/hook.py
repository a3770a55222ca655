"""A webhook on this device: hook.py PORT FILE appends the body of each POST to FILE, a line each, and answers 204."""

import socket
import sys

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as request, open(sys.argv[2], "ab") as bodies:
        head = iter(request.readline, b"\r\n")
        fields = dict(line.decode().strip().lower().split(": ", 1) for line in head if b": " in line)
        bodies.write(request.read(int(fields["content-length"])) + b"\n")
        connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
