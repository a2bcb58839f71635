# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of the pool while threads receive, peek and forget, and the garbage collector comes in between."""

from __future__ import annotations

import gc
import random
import threading

import kdbus
from tests.programs.client_support import PATIENCE, Scene, case, main

MESSAGES = 600
RECEIVERS = 3


def send(sender: kdbus.Connection, receiver: int, payload: bytes) -> None:
    """Send, as soon as there is room."""
    while True:
        try:
            sender.send(receiver, payload)
        except kdbus.QueueFull:
            continue
        return


def is_whole(view: memoryview) -> bool:
    """Whether all bytes are equal, as they were sent."""
    return bytes(view[:1]) * len(view) == bytes(view)


@case
def parts_do_not_change_under_their_readers(scene: Scene) -> None:
    sender, receiver = scene.connect(), scene.connect(pool_size=1 << 18)
    received: list[int] = []
    wrong: list[bytes] = []

    def receive(seed: int) -> None:
        chance = random.Random(seed)
        kept: list[memoryview] = []
        while payload := (message := receiver.receive(PATIENCE)).payload:
            received.append(message.cookie)
            if chance.random() < 0.3:
                peeked = receiver.receive_nowait(peek=True)
                if peeked is not None and not is_whole(peeked.payload):
                    wrong.append(bytes(peeked.payload))
            # Ends with the garbage collection, somewhere.
            cycle: list[object] = [message]
            cycle.append(cycle)
            kept.append(payload[1:])
            if len(kept) > 10 and not is_whole(view := kept.pop(chance.randrange(10))):
                wrong.append(bytes(view))

    threads = [threading.Thread(target=receive, args=[seed]) for seed in range(RECEIVERS)]
    threshold = gc.get_threshold()
    gc.set_threshold(7)
    try:
        for thread in threads:
            thread.start()
        for number in range(MESSAGES):
            send(sender, receiver.id, bytes([number % 255 + 1]) * (number * 37 % 3000 + 1))
        for _ in threads:
            send(sender, receiver.id, b"")
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
    assert not wrong and len(received) == MESSAGES
    gc.collect()
    # All was given back: there is room for as much as at first.
    sender.send(receiver.id, bytes(40000))


if __name__ == "__main__":
    main()
