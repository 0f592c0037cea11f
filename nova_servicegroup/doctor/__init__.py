# SPDX-License-Identifier: Apache-2.0

"""Checks of an installation: what is wrong, why it matters, how to mend it.

One file for each thing that is checked. A check is a function of a Site that
yields Findings; it reads, and changes nothing. ``run`` gives each a limited
time, whatever hangs.
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
        """What to sort by: what is not known is less than a warning."""
        return (0, 2, 3, 1)[self]


class Finding(typing.NamedTuple):
    """What a check found.

    :param level: a Level
    :param what: what is so, one sentence
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

    :param name: as the operator sees it, and may leave it out by
    :param function: ``function(site)`` yields Findings
    :param is_wanted: ``is_wanted(site)`` tells whether it applies
    :param needs: names of checks whose subject has to be reachable
    :param limit: seconds that it may take
    """

    name: str
    function: typing.Callable
    is_wanted: typing.Callable = lambda site: True
    needs: tuple = ()
    limit: float = LIMIT


class Unreachable(Exception):
    """What is to be checked can't be reached.

    :param what: what is so, one sentence
    :param fix: what to do
    """

    def __init__(self, what, fix):
        super().__init__(what)
        self.fix = fix


def worst(findings):
    """Return the Level that stands for all of some findings."""
    return max((found.level for found in findings),
               key=lambda level: level.severity, default=Level.OK)


class Run:
    """Checks one after the other, each in a thread of its own.

    A thread that hangs is left behind: see ``is_stuck``.

    :param checks: list of Check
    :param site: what they look at
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
                'What it finds is not known.',
                'Mend what %s found, first.' % missing[0])]
        found, done = [], threading.Event()
        thread = threading.Thread(
            target=self._collect, args=(check, found, done), daemon=True)
        left = min(check.limit, self._deadline - self._monotonic())
        if left <= 0:
            return [Finding(
                Level.UNKNOWN, 'Not checked: the time was over before.',
                'What it finds is not known.',
                'nova-servicegroup doctor --timeout 300')]
        thread.start()
        # Not for its end: what Nova's libraries keep for a thread may hold it.
        is_done = done.wait(left)
        # A copy: whoever hangs may wake up again.
        found = list(found)
        if not is_done:
            self.is_stuck = True
            self._unreachable.add(check.name)
            found.append(Finding(
                Level.CRITICAL, 'No answer within %.0f s.' % left,
                'What takes so long does so for Nova\'s services, too.',
                'Look at the servers that this check asks, and at the '
                'network to them; "nova-servicegroup -vv doctor --only %s" '
                'shows more.' % check.name))
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
                'What it finds is not known.',
                'Please report it, with the output of "nova-servicegroup '
                '-vv doctor --only %s".' % check.name))
        finally:
            done.set()


def listed(names, most=5):
    """Return names for a sentence: the first ones, and how many more."""
    names = sorted(names)
    more = len(names) - most
    return ', '.join(names[:most]) + (
        ' and %d more' % more if more > 0 else '')


def clock(where, ahead, doubt, tolerance, why):
    """Return the Finding about the clock of a server.

    :param where: whose it is
    :param ahead: seconds by which it is ahead of this host's
    :param doubt: seconds by which that may be wrong
    :param tolerance: seconds; more is a warning, five times as much critical
    """
    off = max(0, abs(ahead) - doubt)
    text = 'The clock of %s is %.1f s %s this host\'s.' % (
        where, abs(ahead), 'ahead of' if ahead > 0 else 'behind')
    if off <= tolerance:
        return Finding(Level.OK, 'The clocks of %s and of this host agree to '
                       '%.1f s.' % (where, max(abs(ahead), doubt)))
    return Finding(
        Level.CRITICAL if off > 5 * tolerance else Level.WARNING, text, why,
        'Let both take their time from the same servers: "apt-get install '
        'chrony" or "dnf install chrony", then "chronyc makestep" and '
        '"chronyc tracking" on both.')
