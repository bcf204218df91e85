"""The proxy that other tests cut connections with does what it says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Direction, Moment, Proxy
from tests.support import eventually


class Echo:
    """Answers every chunk with `<chunk>`, and keeps what came."""

    def __init__(self) -> None:
        self.got = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            while chunk := conn.recv(1000):
                self.got += chunk
                conn.sendall(b"<" + chunk + b">")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    opened = Echo()
    yield opened
    opened.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    opened = Proxy("127.0.0.1", echo.port)
    yield opened
    opened.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as conn:
        conn.sendall(b"hello")
        assert conn.recv(100) == b"<hello>"
        yield conn


def refused(proxy: Proxy) -> bool:
    try:
        socket.create_connection(("127.0.0.1", proxy.port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_cut_resets_connections_and_refuses_new_ones_until_healed(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    assert refused(proxy)
    proxy.heal()
    assert not refused(proxy)


def test_a_stalled_connection_stays_open_and_goes_on_when_healed(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.stall()
    client.sendall(b"again")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(100)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as late:  # accepted, not answered
        late.sendall(b"late")
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(100)
        proxy.heal()
        late.settimeout(5)
        client.settimeout(5)
        assert client.recv(100) == b"<again>"
        assert late.recv(100) == b"<late>"


def test_a_delay_holds_up_both_directions(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay = 0.1
    started = time.monotonic()
    client.sendall(b"slow")
    assert client.recv(100) == b"<slow>"
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("moment", "arrived"), [("before", b"go "), ("within", b"go CO"), ("after", b"go COMMIT!")]
)
def test_a_pattern_cuts_at_its_moment(
    proxy: Proxy, client: socket.socket, echo: Echo, moment: Moment, arrived: bytes
) -> None:
    done = proxy.cut_at(b"COMMIT" if moment != "within" else b"COMM", moment)
    client.sendall(b"go COMMIT!")
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    assert done.wait(5)
    eventually(lambda: echo.got == b"hello" + arrived, what=f"{arrived!r} arriving")
    assert not refused(proxy)  # only this connection was cut


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_so_many_bytes_pass_and_no_more(
    proxy: Proxy, client: socket.socket, echo: Echo, direction: Direction
) -> None:
    done = proxy.cut_after(3, direction)
    client.sendall(b"abcdef")
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(1):
            got += chunk
    assert done.wait(5)
    if direction == "to_server":
        assert got == b""
        eventually(lambda: echo.got == b"helloabc", what="three bytes arriving")
    else:
        assert len(got) <= 3
        assert echo.got == b"helloabcdef"
