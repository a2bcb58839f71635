# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus programs on a bus of kdbus, activation, and a daemon's bus: `kdbus proxy`, `kdbus activate`, `kdbus bridge`.

An ordinary kdbus program, made with the client library (`kdbus`): it listens at a socket as a D-Bus daemon does, and
gives every client a connection of its own. From the ground up:

    limits     how much one client, and all of them, may have
    sasl       the authentication of a client; bytes in, bytes out
    framing    messages in a stream of bytes and descriptors
    failures   what D-Bus calls the failures of kdbus
    rules      dbus-daemon's policy: rules, and what they decide
    rule_elements, busconfig
               the configuration files that rules stand in
    kdbus_policy
               the same policy in kdbus's words, as far as these go
    guard      the policy, applied to one client
    stream     the socket of a client: descriptors beside bytes, and a bounded queue of what it has not read yet
    onward     what a client sends, on its way to the bus
    house      what the clients of a socket share, and statistics of them
    monitoring clients that watch
    inward     what comes from the bus, on its way to the client
    queries    what the driver is asked about names and connections
    starting   what a client asks to be started
    driver     `org.freedesktop.DBus`, which is no connection on kdbus
    service    the same for programs that speak kdbus
    client     one client, from its first byte to its last
    proxy      all of them

and of activation:

    shell_words, service_file, unit_file   what a file says
    activatable   which names there is a program for
    folder_watch  when that changes
    activated     one of them: when it is started, and when no more
    activation    all of them, on a bus

and of the bridge:

    identity      connecting as another user
    daemon        a connection to a D-Bus daemon, as a client
    stand_ins     one connection on each bus for each of the other that is heard of there
    startable     what the daemon can start
    union         all of them: names, signals, comings and goings
"""
