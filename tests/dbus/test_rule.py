# SPDX-License-Identifier: GPL-2.0-or-later
"""Match rules: their grammar, what they fit, and that no bloom mask loses a message that its rule fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbus.dbus.bloom import entries_of
from kdbus.dbus.errors import InvalidRule
from kdbus.dbus.message import Message, MessageType, signal
from kdbus.dbus.rule import Rule, alternatives, parse

SIGNAL = replace(signal("/a/b", "org.example.I", "M", "sso", ("org.x", "two", "/p/q/")), sender=":1.5")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", Rule()),
        ("type='signal'", Rule(type=MessageType.SIGNAL)),
        ("type=signal,member=M", Rule(type=MessageType.SIGNAL, member="M")),
        (" type='error', \tmember='M',", Rule(type=MessageType.ERROR, member="M")),
        ("sender=':1.5',destination='org.example.A'", Rule(sender=":1.5", destination="org.example.A")),
        ("path='/a',interface='a.b'", Rule(path="/a", interface="a.b")),
        ("path_namespace='/'", Rule(path_namespace="/")),
        ("arg0namespace=org", Rule(arg0namespace="org")),
        ("arg0=''", Rule(arguments=((0, ""),))),
        ("arg63='x',arg0path='/'", Rule(arguments=((63, "x"),), argument_paths=((0, "/"),))),
        ("arg1='a,b=c'", Rule(arguments=((1, "a,b=c"),))),
        (r"arg1='a'\''b'", Rule(arguments=((1, "a'b"),))),
        (r"arg1='a\b',arg2=\\", Rule(arguments=((1, "a\\b"), (2, "\\\\")))),
        ("arg1=x'y'z", Rule(arguments=((1, "xyz"),))),
        ("eavesdrop='true'", Rule(eavesdrop=True)),
        ("eavesdrop=false", Rule()),
    ],
)
def test_rules_of_d_bus(text: str, rule: Rule) -> None:
    assert parse(text) == rule
    assert parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "x", "x=y", "type='nothing'", "type=", "type='signal',type='signal'", "member='a.b'", "interface='a'",
        "path='a'", "path='/',path_namespace='/'", "path_namespace='/a/'", "sender='x'", "destination='x'",
        "arg64='x'", "arg01='x'", "arg='x'", "arg1namespace='a'", "arg0namespace='a..b'", "eavesdrop=yes",
        "type='signal", "arg0='" + "x" * 1024 + "'", "=", ",", "type='signal',,member='M'",
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InvalidRule):
        parse(text)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("type=signal", True),
        ("type=method_call", False),
        ("interface=org.example.I,member=M,path=/a/b", True),
        ("interface=org.example.J", False),
        ("member=N", False),
        ("path=/a", False),
        ("path_namespace=/a", True),
        ("path_namespace=/a/b", True),
        ("path_namespace=/", True),
        ("path_namespace=/a/b/c", False),
        ("sender=:1.5", True),
        ("sender=:1.6", False),
        ("sender=org.example.Owned", True),
        ("sender=org.example.Other", False),
        ("destination=org.example.A", False),
        ("arg0=org.x", True),
        ("arg1=two", True),
        ("arg1=one", False),
        ("arg2=/p/q/", False),  # "Only string arguments": this one is an object path.
        ("arg3=x", False),
        ("arg0namespace=org", True),
        ("arg0namespace=org.x", True),
        ("arg0namespace=or", False),
        ("arg2path=/p/q/", True),
        ("arg2path=/p/q/r", True),
        ("arg2path=/p/", True),
        ("arg2path=/p", False),
        ("arg2path=/p/q", False),
        ("arg3path=/", False),
    ],
)
def test_what_a_rule_fits(text: str, fits: bool) -> None:
    # A path that ends with a slash is none, but strings are asked for as well as paths.
    message = replace(SIGNAL, signature="sso", body=("org.x", "two", "/p/q/"))
    assert parse(text).fits(message, {"org.example.Owned"}) == fits


def test_arguments_that_are_not_strings_fit_no_path() -> None:
    assert not parse("arg0path=/").fits(replace(SIGNAL, signature="u", body=(1,)))


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", [[]]),
        ("type=signal,member=M", [["message-type:signal", "member:M"]]),
        ("interface=a.b,path=/a", [["interface:a.b", "path:/a"]]),
        ("path_namespace=/a", [["path-slash-prefix:/a"]]),
        ("path_namespace=/", [[]]),
        ("arg0=x,arg1=y", [["arg0:x"]]),
        ("arg0namespace=org.x", [["arg0-dot-prefix:org.x"]]),
        ("sender=:1.5,destination=:1.6", [[]]),
        ("arg0path=/a/b", [["arg0:/a/b"], ["arg0:/"], ["arg0:/a/"]]),
        ("arg0path=/a/", [["arg0-slash-prefix:/a/"], ["arg0:/"]]),
        ("arg1path=/a", [[]]),
    ],
)
def test_entries_to_ask_kdbus_for(text: str, entries: list[list[str]]) -> None:
    assert alternatives(parse(text)) == entries


def entries_of_2015(message: Message) -> Iterator[str]:
    """What the sd-bus of 2015 puts into its filters: of the arguments, none behind the first string."""
    for entry in entries_of(message):
        if not entry.startswith("arg") or entry.startswith(("arg0:", "arg0-")):
            yield entry


PATHS = st.sampled_from(("/", "/a", "/a/b", "/ab", "/a/b/c"))
TEXTS = st.sampled_from(("", "/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "org", "org.x", "org.x.y", "orgx"))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    interface = draw(st.sampled_from(("org.x", "org.x.y")))
    body = tuple(draw(st.lists(TEXTS, max_size=3)))
    return signal(draw(PATHS), interface, draw(st.sampled_from("MN")), "s" * len(body), body)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    def maybe(strategy: st.SearchStrategy[str]) -> str | None:
        return draw(st.none() | strategy)

    numbers = st.lists(st.integers(0, 2), max_size=2, unique=True)
    return Rule(
        interface=maybe(st.sampled_from(("org.x", "org.x.y"))),
        member=maybe(st.sampled_from("MN")),
        path=maybe(PATHS),
        path_namespace=maybe(PATHS),
        arg0namespace=maybe(st.sampled_from(("org", "org.x"))),
        arguments=tuple((number, draw(TEXTS)) for number in draw(numbers)),
        argument_paths=tuple((number, draw(TEXTS)) for number in draw(numbers)),
    )


@given(rules(), messages())
@settings(max_examples=1000)
def test_masks_lose_nothing_that_the_rule_fits(rule: Rule, message: Message) -> None:
    if rule.fits(message):
        for entries in (set(entries_of(message)), set(entries_of_2015(message))):
            assert any(entries.issuperset(wanted) for wanted in alternatives(rule))


@given(st.text(alphabet="typesignalarg0123path=', \\_/.", max_size=60))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse(text)
    except InvalidRule:
        return
    assert parse(str(rule)) == rule
