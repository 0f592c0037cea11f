# SPDX-License-Identifier: Apache-2.0

"""ServiceGroup API and drivers for Nova.

``API`` is exported here, as in ``nova.servicegroup``. It is imported on first
use: the keeper process imports this package too and must stay small.
"""


def __getattr__(name):
    if name == 'API':
        from nova_servicegroup import api
        return api.API
    raise AttributeError('module %r has no attribute %r' % (__name__, name))
