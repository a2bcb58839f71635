# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus as it was spoken on kdbus: values, messages, names and matches, as bytes and as Python's types.

Everything here computes and nothing else: there is no connection, descriptor or clock, so all of it can be used with
any transport, and tested without one.

    values, signature, names      what D-Bus's values look like in Python, and what is valid
    gvariant, unmarshal           the marshalling that kdbus's clients agreed on
    message, version2             messages, and their bytes on kdbus
    bloom, rule                   bloom filters as sd-bus makes them, and match rules

Errors stand in `errors`. Nothing is imported here, so that who wants one part loads one part.
"""
