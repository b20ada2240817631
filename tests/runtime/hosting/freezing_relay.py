"""A TCP relay whose connections can fall silent: they stay open, and nothing goes through any more."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class FreezingRelay:
    """Forwards connections to a port of this machine.

    Args:
        port: where to.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._others: dict[socket.socket, socket.socket] = {}
        self._frozen: set[int] = set()
        self._freeze_new = False
        self._lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="relay")
        self._thread.start()

    @property
    def address(self) -> str:
        """Where to connect to."""
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def freeze(self, client_ports: set[int], also_new: bool) -> None:
        """Lets the connections from these ports fall silent, and those that come later too where `also_new`."""
        with self._lock:
            self._frozen |= client_ports
            self._freeze_new = also_new

    def close(self) -> None:
        self._closing = True
        self._waker.send(b"!")
        self._thread.join()
        for one in (self._listener, self._wake, self._waker, *self._others):
            one.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj is not self._wake:
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        client, where = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            client.close()
            return
        self._others |= {client: server, server: client}
        with self._lock:
            if self._freeze_new:
                self._frozen.add(where[1])
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ, where[1])

    def _forward(self, source: socket.socket) -> None:
        key = self._selector.get_map().get(source)
        if key is None:
            return  # its other end was closed just now
        port = key.data
        with self._lock:
            frozen = port in self._frozen
        if frozen:
            # What has come stays in the kernel.
            self._selector.unregister(source)
            return
        with contextlib.suppress(OSError):
            data = source.recv(1 << 16)
            if data:
                self._others[source].sendall(data)
                return
        other = self._others[source]
        for one in (source, other):
            with contextlib.suppress(KeyError):
                self._selector.unregister(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
