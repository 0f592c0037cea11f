# SPDX-License-Identifier: Apache-2.0

"""Which of Nova's services are alive: told by them, asked by the others.

``API`` is made known here, as ``nova.servicegroup`` does it. It is imported
on first use: the keeper process is started from this package too and must
stay small.
"""


def __getattr__(name):
    if name == 'API':
        from nova_servicegroup import api
        return api.API
    raise AttributeError('module %r has no attribute %r' % (__name__, name))
