# SPDX-License-Identifier: GPL-2.0-or-later
"""Contents of `.service` files for D-Bus, good and bad: by the last part of the name that each is about."""

from __future__ import annotations

from typing import Final

_EXEC: Final = "Exec=/bin/false\n"


def _service(name: str, rest: str = "") -> bytes:
    return f"[D-BUS Service]\nName=t.{name}\n{_EXEC}{rest}".encode()


GOOD: Final = {
    "plain": _service("plain"),
    "comment": b"# a comment\n\n" + _service("comment", "# another\n"),
    "DoubleKey": _service("DoubleKey", "Name=t.other\n"),
    "DoubleGroup": _service("DoubleGroup", "[D-BUS Service]\nName=t.another\n"),
    "OtherGroup": b"[Other Group]\nA=b\n" + _service("OtherGroup"),
    "locale": _service("locale", "Comment[de]=1\n"),
    "escape": _service("escape", "Comment=a\\sb\\\\\n"),
    "carriage": _service("carriage").replace(b"\n", b"\r\n"),
    "NoNewline": _service("NoNewline").rstrip(),
    "EmptyExec": b"[D-BUS Service]\nName=t.EmptyExec\nExec=\n",
    "unclosed": b"[D-BUS Service]\nName=t.unclosed\nExec=/bin/false 'a\n",
    "systemd": _service("systemd", "SystemdService=foo.service\n"),
    "control": _service("control", "Comment=a\x01b\n"),
    "blank": _service("blank", "  \t\n"),
    "spaced": b"[D-BUS Service]\nName =  t.spaced\nExec = /bin/false\n",
}
"""Those whose name can be started, or at least tried to."""

BAD: Final = {
    "empty": b"",
    "NoGroup": b"Name=t.NoGroup\n" + _EXEC.encode(),
    "KeyBefore": b"A=b\n" + _service("KeyBefore"),
    "NoEquals": _service("NoEquals", "Comment\n"),
    "BadKey": _service("BadKey", "Com_ment=1\n"),
    "EmptyKey": _service("EmptyKey", "=1\n"),
    "OpenGroup": _service("OpenGroup").replace(b"]", b"", 1),
    "TrailingGroup": _service("TrailingGroup").replace(b"]", b"] ", 1),
    "EmptyGroup": b"[]\nA=b\n" + _service("EmptyGroup"),
    "TabGroup": _service("TabGroup").replace(b"[D-BUS S", b"[D-BUS\tS"),
    "LowerGroup": _service("LowerGroup").replace(b"[D-BUS", b"[d-bus"),
    "LowerKey": _service("LowerKey").replace(b"Name", b"name"),
    "BadEscape": _service("BadEscape", "Comment=a\\qb\n"),
    "OpenEscape": _service("OpenEscape", "Comment=a\\\n"),
    "NoUtf8": _service("NoUtf8") + b"#\xff\n",
    "zero": _service("zero", "Comment=\0\n"),
    "mark": b"\xef\xbb\xbf" + _service("mark"),
    "large": _service("large", "#" + "x" * 200_000 + "\n"),
    "indented": _service("indented").replace(b"Name", b"  Name"),
    "IndentedComment": _service("IndentedComment", "  # x\n"),
    "NoExec": b"[D-BUS Service]\nName=t.NoExec\n",
    "NoName": b"[D-BUS Service]\n" + _EXEC.encode(),
    "OnlySystemd": b"[D-BUS Service]\nName=t.OnlySystemd\nSystemdService=foo.service\n",
}
"""Those that dbus-daemon leaves out."""

BAD_NAMES: Final = ("bad", ":1.5", "org.freedesktop.DBus", "t.a ", "", "t..a", "t." + "a" * 300)
"""Names that nobody can have, though dbus-daemon may list them."""
