"""A minimal MQTT 3.1.1 broker for tests: CONNECT, PUBLISH with quality of service 1, PUBACK, PINGREQ, DISCONNECT over a socket.

It can hang up at any message, before or after taking it in, keep an acknowledgement back, and refuse a user.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

ACKNOWLEDGE, HANG_UP, KEEP_QUIET = "acknowledge", "hang up", "keep quiet"


class Broker:
    """``decide(id of the row)`` says what becomes of a message; ``code`` is what CONNACK answers (0 accepts, 5 refuses)."""

    def __init__(self, decide: Callable[[str], str] = lambda _id: ACKNOWLEDGE, code: int = 0) -> None:
        self.decide = decide
        self.code = code
        self.came: Counter[str] = Counter()  # messages that came, by the row's id
        self.acknowledged: Counter[str] = Counter()
        self.topics: set[str] = set()
        self.bodies: dict[str, set[bytes]] = {}
        self.clients: list[tuple[str, str | None, str | None]] = []  # (client id, user, password) of each connection
        self.most_under_way = 0
        self.faults: list[str] = []
        self.news = threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._open: set[socket.socket] = set()
        self._threads[0].start()

    def wait(self, ready: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(ready, timeout=30)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self.news:
            for one in self._open:
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            with self.news:
                self._open.add(line)
            self._threads.append(threading.Thread(target=self._serve, args=(line,)))
            self._threads[-1].start()

    def _serve(self, line: socket.socket) -> None:
        try:
            with line, line.makefile("rb") as file:
                while self._answer(line, file):
                    pass
        except (OSError, EOFError):
            pass
        finally:
            with self.news:
                self._open.discard(line)
                self.news.notify_all()

    def _answer(self, line: socket.socket, file: Any) -> bool:
        """Read one packet and answer it; whether the connection goes on."""
        kind, flags, packet = read_packet(file)
        if kind == 1:  # CONNECT
            with self.news:
                self.clients.append(read_connect(packet))
                self.news.notify_all()
            line.sendall(bytes([0x20, 2, 0, self.code]))
            return self.code == 0
        if kind == 12:  # PINGREQ
            line.sendall(bytes([0xD0, 0]))
            return True
        if kind != 3:  # PUBLISH is the only other one; DISCONNECT and what is unknown end it
            return False
        length = struct.unpack_from(">H", packet)[0]
        (mid,) = struct.unpack_from(">H", packet, 2 + length)
        body = packet[4 + length :]
        id_ = json.loads(body)["id"]
        with self.news:
            if (flags >> 1) & 3 != 1 or flags & 1:
                self.faults.append("not of quality 1, or retained")
            self.topics.add(packet[2 : 2 + length].decode())
            self.bodies.setdefault(id_, set()).add(body)
            self.came[id_] += 1
            self.most_under_way = max(self.most_under_way, sum((self.came - self.acknowledged).values()))
            decision = self.decide(id_)
            if decision == ACKNOWLEDGE:
                self.acknowledged[id_] += 1
            self.news.notify_all()
        if decision == ACKNOWLEDGE:
            line.sendall(struct.pack(">BBH", 0x40, 2, mid))
        return decision != HANG_UP


def read_packet(file: Any) -> tuple[int, int, bytes]:
    """(kind, flags, what follows the length)."""
    head = take(file, 1)[0]
    length = shift = 0
    while True:
        byte = take(file, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return head >> 4, head & 15, take(file, length)


def take(file: Any, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return bytes(data)


def read_connect(packet: bytes) -> tuple[str, str | None, str | None]:
    flags, place = packet[7], 10  # behind the protocol's name and level, the flags, and the seconds to keep alive

    def text() -> str:
        nonlocal place
        (length,) = struct.unpack_from(">H", packet, place)
        place += 2 + length
        return packet[place - length : place].decode()

    return text(), text() if flags & 0x80 else None, text() if flags & 0x40 else None
