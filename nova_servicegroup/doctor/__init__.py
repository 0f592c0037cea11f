# SPDX-License-Identifier: Apache-2.0

"""Checks of an installation: what is wrong, why it matters, how to fix it.

Each check is a function that takes a Site, reads only, and yields Findings.
``Run`` limits the time of each, also if it hangs.
"""

from __future__ import annotations

import enum
import threading
import time
import typing

#: seconds that one check may take
LIMIT = 20.0


class Level(enum.IntEnum):
    """How bad a finding is: the exit codes of monitoring plug-ins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    #: it could not be checked
    UNKNOWN = 3

    @property
    def severity(self):
        """The key to sort by: UNKNOWN ranks below WARNING."""
        return (0, 2, 3, 1)[self]


class Finding(typing.NamedTuple):
    """One result of a check.

    :param level: a Level
    :param what: the finding, one sentence
    :param why: why it matters; None with OK
    :param fix: a command, or lines of a configuration; None with OK
    :param check: name of the check, filled in by ``run``
    """

    level: Level
    what: str
    why: str | None = None
    fix: str | None = None
    check: str | None = None


class Check(typing.NamedTuple):
    """A check and its name.

    :param name: its name, also for ``--only`` and ``--skip``
    :param function: ``function(site)`` yields Findings
    :param is_wanted: ``is_wanted(site)`` returns whether it applies
    :param needs: names of checks whose servers must be reachable
    :param limit: seconds that it may take
    """

    name: str
    function: typing.Callable
    is_wanted: typing.Callable = lambda site: True
    needs: tuple = ()
    limit: float = LIMIT


class Unreachable(Exception):
    """The server or file to check can't be reached.

    :param what: the finding, one sentence
    :param fix: what to do
    """

    def __init__(self, what, fix):
        super().__init__(what)
        self.fix = fix


def worst(findings):
    """Return the worst Level of the findings, OK without any."""
    return max((found.level for found in findings),
               key=lambda level: level.severity, default=Level.OK)


class Run:
    """Runs checks one after the other, each in its own thread.

    A thread that hangs is abandoned, see ``is_stuck``.

    :param checks: list of Check
    :param site: the Site to check
    :param timeout: seconds for all of them
    """

    def __init__(self, checks, site, timeout, monotonic=time.monotonic):
        self._checks = checks
        self._site = site
        self._monotonic = monotonic
        self._deadline = monotonic() + timeout
        self._unreachable = set()
        #: whether a thread still hangs in a check
        self.is_stuck = False

    def findings(self):
        """Return a list of Finding. Blocks for ``timeout`` at most."""
        return [found._replace(check=check.name)
                for check in self._checks if check.is_wanted(self._site)
                for found in self._run(check)]

    def _run(self, check):
        missing = [name for name in check.needs if name in self._unreachable]
        if missing:
            self._unreachable.add(check.name)
            return [Finding(
                Level.UNKNOWN, 'Not checked: see %s.' % missing[0],
                'Its result is unknown.',
                'First fix what %s found.' % missing[0])]
        found, done = [], threading.Event()
        thread = threading.Thread(
            target=self._collect, args=(check, found, done), daemon=True)
        left = min(check.limit, self._deadline - self._monotonic())
        if left <= 0:
            return [Finding(
                Level.UNKNOWN, 'Not checked: the time limit was reached.',
                'Its result is unknown.',
                'nova-servicegroup doctor --timeout 300')]
        thread.start()
        # No join: Nova's libraries may delay the end of the thread.
        is_done = done.wait(left)
        # A copy, as a thread that hangs may continue later.
        found = list(found)
        if not is_done:
            self.is_stuck = True
            self._unreachable.add(check.name)
            found.append(Finding(
                Level.CRITICAL, 'No answer within %.0f s.' % left,
                'Nova\'s services wait for it, too.',
                'Check the servers that this check reads, and the network to '
                'them; "nova-servicegroup -vv doctor --only %s" shows more.'
                % check.name))
        return found

    def _collect(self, check, found, done):
        try:
            for one in check.function(self._site):
                found.append(one)
        except Unreachable as e:
            self._unreachable.add(check.name)
            found.append(Finding(
                Level.CRITICAL, str(e), 'Nova\'s services on this host '
                'cannot use it either, and are soon seen as down or in '
                'doubt.', e.fix))
        except Exception as e:
            found.append(Finding(
                Level.UNKNOWN, 'This check failed: %s: %s.' % (
                    type(e).__name__, str(e).partition('\n')[0]),
                'Its result is unknown.',
                'Please report it, with the output of "nova-servicegroup '
                '-vv doctor --only %s".' % check.name))
        finally:
            done.set()


def listed(names, most=5):
    """Return the first names as text, and how many more there are."""
    names = sorted(names)
    more = len(names) - most
    return ', '.join(names[:most]) + (
        ' and %d more' % more if more > 0 else '')


def clock(where, ahead, error, tolerance, why):
    """Return the Finding about the clock of a server.

    :param where: the server
    :param ahead: seconds by which its clock is ahead of this host's
    :param error: seconds by which ``ahead`` may be wrong
    :param tolerance: seconds; more is a warning, five times as much critical
    :param why: why it matters
    """
    off = max(0, abs(ahead) - error)
    text = 'The clock of %s is %.1f s %s this host\'s.' % (
        where, abs(ahead), 'ahead of' if ahead > 0 else 'behind')
    if off <= tolerance:
        return Finding(Level.OK, 'The clocks of %s and of this host agree to '
                       '%.1f s.' % (where, max(abs(ahead), error)))
    return Finding(
        Level.CRITICAL if off > 5 * tolerance else Level.WARNING, text, why,
        'Use the same NTP servers on both: "apt-get install chrony" or "dnf '
        'install chrony", then "chronyc makestep" and "chronyc tracking".')
