# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus as it was spoken on kdbus: values, messages, names and matches, as bytes and as Python's types.

`blocking` and `trio` have connections that speak it, over the client library, and `transport` is what they share.
Everything else computes: there is no connection, descriptor or clock, so it can be used with any transport, and tested
without one.

    values, signature, names            what D-Bus's values look like in Python, and what is valid
    gvariant, unmarshal                 the marshalling that kdbus's clients agreed on
    message, version2, version1         messages, and their bytes
    handles                             descriptors among their values
    bloom, rule, kernel                 bloom filters as sd-bus makes them, match rules, and what kdbus does of them
    introspection, service, proxy       what objects can do; ours, and those of others

Errors stand in `errors`. Nothing is imported here, so that who wants one part loads one part.
"""
