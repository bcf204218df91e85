"""MQTT 5: a shared subscription at QoS 1 of a session that outlives its connection.

<https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html>, sections 3.1.2.11 and 4.8.2.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from netscript_triggers.sources import Message, SourceError, SourceOptions, texts

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_ANSWER_SECONDS = 10.0
# How long the broker keeps what comes for a server that is away.
_SESSION_SECONDS = 86_400
# Servers of one trigger on one machine.
_MOST_SESSIONS = 64
_QOS = 1


class MqttSource:
    """One subscriber of a group."""

    def __init__(self, options: SourceOptions) -> None:
        """Prepare; nothing is connected yet.

        Raises:
            SourceError: The URL is none of a broker.
        """
        self._options = options
        parts = urlsplit(options.url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise SourceError(
                "The URL is none of MQTT.", hint="Write it as mqtt://HOST or mqtts://HOST."
            )
        self._session = _Session(options)
        connecting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connecting.SessionExpiryInterval = _SESSION_SECONDS
        connecting.ReceiveMaximum = min(options.prefetch, 65_535)
        self._client = aiomqtt.Client(
            parts.hostname,
            parts.port or _PORTS[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            identifier=self._session.name,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=connecting,
            timeout=_ANSWER_SECONDS,
            keepalive=15,
            tls_params=aiomqtt.TLSParameters() if parts.scheme == "mqtts" else None,
        )
        # aiomqtt has no word for it: nothing is acknowledged that is not committed.
        self._client._client.manual_ack_set(on=True)  # noqa: SLF001
        self._is_open = False

    async def open(self) -> None:
        """Connect to the session, and share the subscription with the group."""
        await self._client.__aenter__()
        self._is_open = True
        filter_ = f"$share/{self._options.group}/{self._options.queue}"
        await self._client.subscribe(filter_, qos=_QOS)

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages as the broker pushes them."""
        async for received in self._client.messages:
            yield _message(received)

    async def acknowledge(self, message: Message) -> None:
        """Acknowledge a message."""
        received: aiomqtt.Message = message.receipt
        self._client._client.ack(received.mid, received.qos)  # noqa: SLF001 - as above

    async def keep(self, messages: list[Message]) -> None:
        """Do nothing: the connection's pings say enough."""

    async def close(self) -> None:
        """Disconnect; the session, and what was not acknowledged, waits for whoever comes next."""
        try:
            if self._is_open:
                await self._client.__aexit__(None, None, None)
        finally:
            self._session.leave()


class _Session:
    """A session's name, which one process at a time has, and the next one takes over.

    The broker gives what a dead process has not acknowledged to the next of the same name only.
    """

    def __init__(self, options: SourceOptions) -> None:
        about = f"{options.url} {options.queue} {options.group}"
        digest = hashlib.sha256(about.encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"netscript-mqtt-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(_MOST_SESSIONS):
            self._file = os.open(folder / f"{digest}-{number}", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                continue
            self.name = f"netscript-{socket.gethostname()[:40]}-{digest}-{number}"
            return
        raise SourceError(f"{_MOST_SESSIONS} servers of this machine subscribe already.")

    def leave(self) -> None:
        """Let others have it."""
        os.close(self._file)


def _message(received: aiomqtt.Message) -> Message:
    properties = received.properties
    pairs: dict[str, str] = dict(getattr(properties, "UserProperty", ()))
    headers = texts(pairs)
    kind = getattr(properties, "ContentType", None)
    if kind:
        headers["content-type"] = str(kind)
    given = headers.get("message-id") or headers.get("id")
    return Message(
        body=bytes(received.payload),
        id=given,
        address=str(received.topic),
        headers=headers,
        receipt=received,
    )


def make(options: SourceOptions) -> MqttSource:
    """Make a source."""
    return MqttSource(options)
