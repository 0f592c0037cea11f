# SPDX-License-Identifier: Apache-2.0

"""The groups that one process has loaded, and the doubts about them.

A driver loads a group only if a member seems to be lost, at most once a second
and by one thread; other threads use the last result.
"""

import threading
import time

from oslo_log import log as logging

from nova_servicegroup import exception
from nova_servicegroup import liveness

LOG = logging.getLogger(__name__)

#: seconds for which a loaded group is used
REFRESH = 1.0
#: seconds that a thread waits for the first load by another one, at most
FIRST_LOAD = 30.0

_WHAT_TO_DO = ('Nova takes them for up until then and places nothing there. '
               'If they are known to be dead: nova-servicegroup force-down '
               '--silent')


class _Loaded:
    """The last loaded Group, or the error of the last load."""

    def __init__(self):
        self.group = None
        self.error = None
        self.until = float('-inf')      # monotonic
        self.loading = threading.Lock()


class Groups:
    """The groups of one driver in one process. Safe from any thread.

    :param name: the driver's name, for messages
    """

    def __init__(self, name, monotonic=time.monotonic):
        self._name = name
        self._monotonic = monotonic
        self._loaded = {}
        #: key -> when its doubt began (monotonic), while it is in doubt
        self.doubted = {}
        self._reviewed_at = {}

    def get(self, key, load):
        """Return a Group that is at most about a second old.

        Blocks while ``load`` does, except if another thread is loading and
        there is an earlier result.

        :param key: hashable; names the group and its cell
        :param load: ``load()`` returns the Group
        :raises ServiceGroupUnavailable: it can't be loaded
        """
        loaded = self._loaded.get(key)
        if loaded is None:
            loaded = self._loaded.setdefault(key, _Loaded())
        if self._monotonic() >= loaded.until:
            self._load(loaded, load)
        if loaded.error is not None:
            raise loaded.error
        return loaded.group

    def _load(self, loaded, load):
        first = loaded.group is None and loaded.error is None
        if not loaded.loading.acquire(
                timeout=FIRST_LOAD if first else 0):
            if first:
                raise exception.ServiceGroupUnavailable(
                    self._name, 'another thread still reads the group')
            return
        try:
            if self._monotonic() < loaded.until:
                return
            try:
                loaded.group, loaded.error = load(), None
            except exception.ServiceGroupUnavailable as e:
                loaded.error = e
            loaded.until = self._monotonic() + REFRESH
        finally:
            loaded.loading.release()

    def note(self, key, verdict):
        """Log the start of a doubt about a group."""
        if verdict.silence is None or key in self.doubted:
            return
        self.doubted[key] = self._monotonic()
        silence = verdict.silence
        LOG.error(
            'Cannot tell whether silent members of the group %(group)s are '
            'lost: %(reason)s. Of %(base)d members %(silent)d are silent and '
            '%(returned)d came back. ' + _WHAT_TO_DO,
            {'group': _text(key), 'reason': verdict.reason.value,
             'base': silence.base, 'silent': silence.silent,
             'returned': silence.returned})

    def in_doubt(self):
        """Return a text for each group in doubt."""
        return ['%s since %.0f s' % (_text(key), self._monotonic() - began)
                for key, began in list(self.doubted.items())]

    def review(self, key, load, now, rules):
        """Log the end of a doubt if it has ended; check once a second."""
        began = self.doubted.get(key)
        if began is None or self._monotonic() < self._reviewed_at.get(
                key, float('-inf')) + REFRESH:
            return
        self._reviewed_at[key] = self._monotonic()
        try:
            group = self.get(key, load)
        except exception.ServiceGroupUnavailable:
            return
        silent = [m for m in group.members.values()
                  if not m.alive and m.end is None]
        verdicts = [liveness.judge(member, lambda: group, now, rules)
                    for member in silent]
        if any(v.state is liveness.State.UNKNOWN for v in verdicts):
            return
        if self.doubted.pop(key, None) is not None:
            LOG.warning(
                'The doubt about the group %(group)s ended after %(length).1f '
                's; %(down)d of its %(all)d members are down.',
                {'group': _text(key), 'length': self._monotonic() - began,
                 'down': len(silent), 'all': len(group.members)})


def _text(key):
    group, cell = key
    return '%s in the cell %s' % (group, cell) if cell else group
