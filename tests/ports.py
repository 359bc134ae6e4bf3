"""Ports that two tests at a time do not both get."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port that nobody listens on, outside the range that systems choose from for connections and for port 0.

    So nothing takes it by chance between now and when it is used; two tests that draw the same one are a chance of
    1 in 22,000.
    """
    chance = random.SystemRandom()  # tests begin with one seed
    while True:
        port = chance.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
