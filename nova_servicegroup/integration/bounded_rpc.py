# SPDX-License-Identifier: Apache-2.0

"""Limits the time in which a service record is saved through a conductor.

Without it, one lost reply blocks the heartbeat for rpc_response_timeout, 60 s:
as long as service_down_time (bug 1368989; Nova had a limit and lost it in
6285d6a511).
"""


def limit(record, timeout):
    """Limit the time of all later RPCs of a record.

    :param record: a nova.objects.Service
    :param timeout: seconds
    """
    conductor = record.indirection_api
    if isinstance(conductor, BoundedConductor):
        conductor.timeout = timeout
    elif conductor is not None:
        record.indirection_api = BoundedConductor(conductor, timeout)


class BoundedConductor:
    """Nova's conductor API with a time limit on saving an object."""

    def __init__(self, conductor, timeout):
        self._conductor = conductor
        self.timeout = timeout
        self._failed = False

    def __getattr__(self, name):
        return getattr(self._conductor, name)

    def object_action(self, context, objinst, objmethod, args, kwargs):
        # No retry: the timeout doesn't apply while oslo.messaging connects,
        # and each attempt at a hung broker takes 5 s. But after a failure one
        # retry: only a retry makes kombu drop a connection that is broken
        # unnoticed; else every heartbeat fails on it.
        client = self._conductor.client.prepare(
            timeout=self.timeout, retry=int(self._failed))
        self._failed = True
        result = client.call(context, 'object_action', objinst=objinst,
                             objmethod=objmethod, args=args, kwargs=kwargs)
        self._failed = False
        return result
