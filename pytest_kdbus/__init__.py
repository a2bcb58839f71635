# SPDX-License-Identifier: GPL-2.0-or-later
"""A pytest plugin: the fixture `kdbus` gives a test a kdbus of its own. docs/pytest.md is the guide.

    def test_service(kdbus):
        kdbus.start(["./service", kdbus.path])
        kdbus.wait_for_name("org.example.Service")
        assert kdbus.call("org.example.Service", b"hello") == b"HELLO"

Each test has a domain of its own, made by `kdbus record` when it is first used: nothing is shared, so tests may run in
parallel. In the domain lives an agent (`pytest_kdbus.agent`), which starts programs, owns the names of fakes, and makes
calls for the test, as the test itself is no program of that domain.

This is installed beside the library `kdbus`, and uses nothing else of the project but its command. Nothing is imported
here, as the agent needs neither pytest nor most of the rest.
"""
