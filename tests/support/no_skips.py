"""Where `QUANTAL_NO_SKIPS` is set, as by .ci/run, nothing may be skipped for want of a tool."""

import os

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Makes a run fail in which a test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("QUANTAL_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
