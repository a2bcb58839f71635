# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes: linked, active, ended, and what the file system is told of it."""

from __future__ import annotations

import errno

import pytest

from broker.errors import NodeExists, NodeShutDown
from broker.interfaces import NodeEvents
from broker.node import Node, node_mode
from kdbus.abi import revision3 as abi
from tests.support.world import FakeNode, FakeNodes, fails


class Root(Node):
    """A root that is active at once."""

    is_directory = True

    def __init__(self) -> None:
        super().__init__("", 0o755, 0, 0)
        self.nodes = FakeNodes()
        self.active = True

    def events(self) -> NodeEvents | None:
        return self.nodes


class Recorder(Node):
    """A node that notes how it is released, and what there was left below it."""

    def __init__(self, name: str, log: list[tuple[str, bool, int]]) -> None:
        super().__init__(name, 0o640, 1, 2)
        self._log = log

    def released(self, was_active: bool) -> None:
        self._log.append((self.name, was_active, len(self.children)))


@pytest.mark.parametrize(
    ("access", "file_mode", "folder_mode"),
    [
        (0, 0o600, 0o500),
        (abi.MAKE_ACCESS_GROUP, 0o660, 0o550),
        (abi.MAKE_ACCESS_WORLD, 0o666, 0o555),
        (abi.MAKE_ACCESS_GROUP | abi.MAKE_ACCESS_WORLD, 0o666, 0o555),
        (1 << 20, 0o600, 0o500),
    ],
)
def test_permissions(access: int, file_mode: int, folder_mode: int) -> None:
    assert node_mode(access, 0o600) == file_mode
    assert node_mode(access, 0o500) == folder_mode


def test_linked_node_is_invisible_but_holds_its_name() -> None:
    root = Root()
    Node("a", 0o600, 1, 2).link(root)
    assert not root.nodes.nodes
    with fails(NodeExists, errno.EEXIST):
        Node("a", 0o600, 1, 2).link(root)


def test_active_node_is_visible() -> None:
    root = Root()
    node = Node("a", 0o640, 1, 2)
    node.link(root)
    node.activate()
    assert node.active and node.path == ("a",)
    assert root.nodes.nodes == {("a",): FakeNode(False, 0o640, 1, 2)}
    with fails(NodeShutDown):
        node.activate()


def test_parent_must_be_active() -> None:
    root = Root()
    parent = Node("a", 0o755, 1, 2)
    parent.link(root)
    with fails(NodeShutDown, errno.ESHUTDOWN):
        Node("b", 0o600, 1, 2).link(parent)
    parent.activate()
    Node("b", 0o600, 1, 2).link(parent)
    parent.deactivate()
    with fails(NodeShutDown, errno.ESHUTDOWN):
        Node("c", 0o600, 1, 2).link(parent)


def test_children_end_before_their_parents() -> None:
    root = Root()
    log: list[tuple[str, bool, int]] = []
    parent = Recorder("a", log)
    parent.link(root)
    parent.activate()
    first, second, unused = Recorder("b", log), Recorder("c", log), Recorder("d", log)
    for child in (first, second, unused):
        child.link(parent)
    first.activate()
    second.activate()
    parent.deactivate()
    assert log == [("b", True, 0), ("c", True, 0), ("d", False, 0), ("a", True, 0)]
    assert root.nodes.log == ["+a", "+a/b", "+a/c", "-a/b", "-a/c", "-a"]
    assert not root.children and not parent.active and not first.active


def test_end_is_final_and_happens_once() -> None:
    root = Root()
    log: list[tuple[str, bool, int]] = []
    node = Recorder("a", log)
    node.link(root)
    node.activate()
    node.deactivate()
    node.deactivate()
    assert log == [("a", True, 0)] and root.nodes.log == ["+a", "-a"]
    with fails(NodeShutDown, errno.ESHUTDOWN):
        node.activate()


def test_node_that_was_never_active_disappears_unseen() -> None:
    root = Root()
    log: list[tuple[str, bool, int]] = []
    node = Recorder("a", log)
    node.link(root)
    node.deactivate()
    assert log == [("a", False, 0)] and not root.nodes.log
    with fails(NodeShutDown, errno.ESHUTDOWN):
        node.activate()
    Node("a", 0o600, 1, 2).link(root)


def test_failed_link_does_not_take_the_name_from_its_holder() -> None:
    root = Root()
    holder, other = Node("a", 0o600, 1, 2), Node("a", 0o600, 1, 2)
    holder.link(root)
    with fails(NodeExists):
        other.link(root)
    other.deactivate()
    assert root.children == {"a": holder}


def test_path_of_a_deeper_node() -> None:
    root = Root()
    folder, file = Node("a", 0o755, 1, 2), Node("b", 0o600, 1, 2)
    folder.link(root)
    folder.activate()
    file.link(folder)
    assert file.path == ("a", "b") and root.path == ()
