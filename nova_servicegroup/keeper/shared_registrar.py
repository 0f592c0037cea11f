# SPDX-License-Identifier: Apache-2.0

"""A Registrar for several workers: each has a share of it."""

import threading

from nova_servicegroup.keeper import loop
from nova_servicegroup.keeper import protocol

#: seconds for the last requests of a worker that has ended
END_LIMIT = 0.4


class Share:
    """The Registrar as one worker sees it.

    Methods other than ``submit`` and ``close`` run in the Registrar's thread.
    Ids and sequence numbers of different workers may be equal, so the
    Registrar gets them together with the share.
    """

    def __init__(self, shared, post):
        self._shared = shared
        self._registrar = shared.registrar
        self.post = post
        self._ids = []

    def submit(self, method, *args):
        self._registrar.submit(method, *args)

    def join(self, member_id, *about):
        self._ids.append((self, member_id))
        self._registrar.join((self, member_id), *about)

    def live(self, member_id):
        self._registrar.live((self, member_id))

    def hang(self, member_id, age):
        self._registrar.hang((self, member_id), age)

    def leave(self, member_id, how, seq):
        self._registrar.leave((self, member_id), how, (self, seq))

    def watch(self, path, *about):
        self._shared.watch(self, path, *about)

    def details(self, seq, path, host):
        self._registrar.details((self, seq), path, host)

    def release(self):
        """Change nothing until ``close``. From any thread; never blocks."""
        self.submit(self._registrar.release, self._ids)

    def close(self, how):
        """End its memberships; blocks for END_LIMIT at most.

        If ZooKeeper is unreachable they end when it is back.
        """
        done = threading.Event()
        self._shared.remove(self)
        self.submit(self._registrar.part, self._ids, how, done.set)
        done.wait(END_LIMIT)


class _View:
    """A group's view, for workers that watch it later than others."""

    def __init__(self, about, known):
        self.about = about
        self.nodes = set(known)
        self.absences = {}
        self.founded = None
        self.listed = False
        self.ready = False      # it is what ZooKeeper has
        self.watchers = []
        self.newcomers = {}     # share -> nodes in its parent's view

    def update(self, nodes, absences, founded):
        self.listed = self.ready = True
        for name, joined in nodes:
            (self.nodes.add if joined else self.nodes.discard)(name)
        for host, state in absences.items():
            if state is None:
                self.absences.pop(host, None)
            else:
                self.absences[host] = state
        self.founded = founded

    def since(self, known):
        """Return the 'view' for a worker that knows of other nodes."""
        return {'nodes': [(name, True) for name in self.nodes - known]
                + [(name, False) for name in known - self.nodes],
                'absences': dict(self.absences), 'founded': self.founded}


class SharedRegistrar:
    """A Registrar for several workers.

    Other threads may call only ``open``, ``remove`` and ``close``.
    """

    def __init__(self):
        # Also ensures that no message is posted to a share after its removal.
        self._lock = threading.Lock()
        self._shares = []
        self._config = None
        self._failure = None    # why the Registrar has ended
        self.registrar = None
        # For the Registrar's thread only:
        self._views = {}        # path -> _View
        self._latest = {}       # op -> its last message, for later shares

    def open(self, config, post):
        """Return the Share of a worker.

        :raises ProtocolError: its configuration differs from that of the
            others, or the Registrar has ended
        """
        with self._lock:
            if self._failure is not None:
                raise protocol.ProtocolError('too late: %s' % self._failure)
            if self._config is None:
                self._config = config
            elif config != self._config:
                raise protocol.ProtocolError(
                    'another configuration than that of its siblings')
            if self.registrar is None:
                self.registrar = loop.start_registrar(config, self.post)
            share = Share(self, post)
            self._shares.append(share)
        self.registrar.submit(self._repeat, share)
        return share

    def close(self):
        if self.registrar is not None:
            self.registrar.close()

    def remove(self, share):
        """Post nothing to it any more."""
        with self._lock:
            self._shares = [one for one in self._shares if one is not share]
        self.registrar.submit(self._forget, share)

    # In the Registrar's thread.

    def _repeat(self, share):
        for op, fields in self._latest.items():
            self._post_to([share], op, fields)

    def _forget(self, share):
        for view in self._views.values():
            view.newcomers.pop(share, None)
            view.watchers = [one for one in view.watchers if one is not share]

    def watch(self, share, path, records, bound, known):
        about, known = (records, bound), set(known)
        view = self._views.get(path)
        if view is None:
            view = self._views[path] = _View(about, known)
            self.registrar.watch(path, records, bound, known)
        if view.about != about:
            self._post_to([share], 'failed', {
                'reason': 'its siblings watch %s in another way' % path})
            return
        if not view.listed:
            # The keeper before may have sent this worker more than others.
            self.registrar.believe(path, known)
        view.newcomers[share] = known
        if view.ready:
            self._welcome(path, view)

    def _welcome(self, path, view):
        """Send the whole view to those who haven't got it."""
        for share, known in view.newcomers.items():
            self._post_to([share], 'view', dict(view.since(known), path=path))
            view.watchers.append(share)
        view.newcomers = {}

    def post(self, op, **fields):
        """Pass a message of the Registrar to whom it concerns."""
        with self._lock:
            shares = list(self._shares)
            if op == 'failed':
                self._failure = fields['reason']
        if op == 'member':
            share, fields['id'] = fields['id']
            shares = [share]
        elif op == 'answer':
            share, fields['seq'] = fields['seq']
            shares = [share]
        elif op == 'log':
            # Their logs are one log.
            shares = shares[:1]
        elif op in ('state', 'clock'):
            self._latest[op] = fields
            if fields.get('state', 'connected') != 'connected':
                for view in self._views.values():
                    view.ready = False
        elif op == 'view':
            path = fields['path']
            view = self._views[path]
            view.update(fields['nodes'], fields['absences'],
                        fields['founded'])
            self._post_to(view.watchers, op, fields)
            self._welcome(path, view)
            return
        elif op == 'unreadable':
            view = self._views[fields['path']]
            view.ready = False
            shares = [*view.watchers, *view.newcomers]
        self._post_to(shares, op, fields)

    def _post_to(self, shares, op, fields):
        with self._lock:
            for share in shares:
                if share in self._shares:
                    share.post(op, **fields)
