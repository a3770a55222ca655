"""A name server on 127.0.0.1:53 that knows the name in its argument, which is at 127.0.0.1, and no other."""

import socket
import sys

KNOWN = sys.argv[1].encode()
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    query, sender = server.recvfrom(512)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    question = query[12 : at + 5]
    known = b".".join(labels).lower() == KNOWN
    wants_address = question[-4:-2] == b"\0\1"
    # RFC 1035: an answer with recursion available; 0 is no error, 3 no such name.
    flags = b"\x81\x80" if known else b"\x81\x83"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x7f\0\0\1" if known and wants_address else b""
    count = b"\0\1" if answer else b"\0\0"
    server.sendto(query[:2] + flags + b"\0\1" + count + b"\0\0\0\0" + question + answer, sender)
