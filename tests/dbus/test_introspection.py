# SPDX-License-Identifier: GPL-2.0-or-later
"""Introspection data: XML there and back, and XML from peers that mean no good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.dbus.errors import Malformed
from kdbus.dbus.introspection import (
    READ,
    READWRITE,
    STANDARD,
    Argument,
    Interface,
    Method,
    Node,
    Property,
    Signal,
    from_xml,
    to_xml,
)

PRINTER = Interface(
    "org.example.Printer",
    {
        "Print": Method("Print", (Argument("s", "text"), Argument("u")), (Argument("u", "job"),)),
        "Stop": Method("Stop"),
    },
    {"Printed": Signal("Printed", (Argument("u", "job"), Argument("a{sv}")))},
    {"Volume": Property("Volume", "d", READWRITE), "Jobs": Property("Jobs", "au", READ, emits=False)},
)
NODE = Node({PRINTER.name: PRINTER, **STANDARD}, ("child", "other"))


def test_there_and_back() -> None:
    assert from_xml(to_xml(NODE)) == NODE
    assert from_xml(to_xml(Node())) == Node()


def test_signatures() -> None:
    assert PRINTER.methods["Print"].signature == "su"
    assert PRINTER.methods["Print"].reply_signature == "u"
    assert PRINTER.signals["Printed"].signature == "ua{sv}"


def test_what_others_write() -> None:
    node = from_xml(
        """<?xml version="1.0"?><!DOCTYPE node PUBLIC "-//x" "http://x">
        <node name="/x"><!-- a comment --><interface name="a.b" extra="1">
          <annotation name="org.freedesktop.DBus.Deprecated" value="true"/>
          <method name="M"><arg type="s"/><arg direction="out" type="i"/><unknown><arg type="!"/></unknown></method>
          <signal name="S"><arg name="x" type="s"/></signal>
          <property name="P" type="s" access="write"><annotation name="x" value="y"/></property>
        </interface><node name="child"><interface name="not.looked.into"/></node><node/></node>"""
    )
    assert list(node.interfaces) == ["a.b"] and node.children == ("child",)
    found = node.interfaces["a.b"]
    assert found.methods == {"M": Method("M", (Argument("s"),), (Argument("i"),))}
    assert found.signals == {"S": Signal("S", (Argument("s", "x"),))}
    assert found.properties == {"P": Property("P", "s", "write")}


@pytest.mark.parametrize(("value", "emits"), [("true", True), ("invalidates", True), ("const", False), ("x", False)])
def test_whether_changes_are_told(value: str, emits: bool) -> None:
    annotation = f'<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="{value}"/>'
    about = f'<property name="P" type="s" access="read">{annotation}</property>'
    text = f'<node><interface name="a.b">{about}</interface></node>'
    assert from_xml(text).interfaces["a.b"].properties["P"].emits is emits


@pytest.mark.parametrize(
    "text",
    [
        "", "<node>", "x", "<node><interface/></node>", '<node><interface name="a"/></node>',
        '<node><interface name="a.b"><method/></interface></node>',
        '<node><interface name="a.b"><method name="M"><arg/></method></interface></node>',
        '<node><interface name="a.b"><method name="M"><arg type="z"/></method></interface></node>',
        '<node><interface name="a.b"><method name="M"><arg type="s" direction="x"/></method></interface></node>',
        '<node><interface name="a.b"><property name="P" type="s"/></interface></node>',
        '<node><interface name="a.b"><property name="P" access="read"/></interface></node>',
        '<!DOCTYPE node [<!ENTITY a "b">]><node/>',
        '<!DOCTYPE node [<!ENTITY a SYSTEM "file:///etc/passwd">]><node/>',
        "<node>" * 100 + "</node>" * 100, "<node>" + " " * (1 << 20) + "</node>", "<node>\ud800</node>",
    ],
)  # fmt: skip
def test_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        from_xml(text)


@given(st.text(alphabet='<node/>interface ="a.bmethod!', max_size=80))
def test_any_text_is_an_object_or_malformed(text: str) -> None:
    try:
        node = from_xml(f"<node>{text}</node>")
    except Malformed:
        return
    assert from_xml(to_xml(node)) == node
