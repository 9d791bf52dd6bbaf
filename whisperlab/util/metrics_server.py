"""The HTTP server of the metrics. Silent clients cannot block it, and the web pages of a browser cannot read it."""

import re
import socket
import threading
from collections import deque
from contextlib import suppress
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

CONNECTIONS = 16  # open at once; one more closes the oldest
_LOCAL = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


class MetricsServer(ThreadingHTTPServer):
    """A running scrape endpoint, ``http://host:port/metrics``. It ends with `close` or with the program."""

    request_queue_size = CONNECTIONS

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__((str(address[0]), port), _Handler.factory(registry))
        self.host, self.port, self.local = host, self.server_port, ip_address(address[0]).is_loopback
        self._newest: deque[socket.socket] = deque(maxlen=CONNECTIONS)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with suppress(IndexError, OSError):  # there are fewer, or it is closed
            self._newest[-CONNECTIONS].shutdown(socket.SHUT_RDWR)
        self._newest.append(request)
        super().process_request(request, client_address)


class _Handler(MetricsHandler):
    server: MetricsServer
    timeout = 5.0  # seconds without a byte from the client

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone
            super().handle()

    def parse_request(self) -> bool:
        """Refuse a request for another host: a page can let its own name point here (DNS rebinding)."""
        ours = super().parse_request()
        if ours and self.server.local and not _LOCAL.fullmatch(self.headers.get("Host", "")):
            self.send_error(403, explain="metrics are served as 127.0.0.1 and localhost only")
            return False
        return ours
