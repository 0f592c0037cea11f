# SPDX-License-Identifier: Apache-2.0

"""What can go wrong, and whose fault it is.

``ConfigurationError``: the operator's; it names the option and the fix.
``InvalidMember``: the caller's; a record that no driver can judge.
``UnsupportedNovaError``: a Nova tree that this package doesn't know.
``ServiceGroupUnavailable``: the store can't be asked; nobody knows.
"""

try:
    from nova import exception as nova_exception
    # Nova's live migration and resize paths answer this one with an error to
    # the user and leave the instance as it was; an unknown exception would
    # put the instance into ERROR (nova/conductor/manager.py).
    _Unavailable = nova_exception.ComputeServiceUnavailable
except ImportError:
    nova_exception = None
    _Unavailable = Exception


class ServiceGroupError(Exception):
    """The root of what this package raises, but ServiceGroupUnavailable."""


class ConfigurationError(ServiceGroupError, ValueError):
    """An option has a value that can't work; the text says how to mend it."""


class InvalidMember(ServiceGroupError, RuntimeError):
    """A member lacks what liveness is kept or judged by."""


class UnsupportedNovaError(ServiceGroupError, RuntimeError):
    """This Nova doesn't look like one that the package knows."""


class ServiceGroupUnavailable(_Unavailable):
    """The driver can't tell whether a service is up.

    Inside Nova it is a ``ComputeServiceUnavailable``, and whoever gets it by
    RPC gets one of those, with the same text. Nova shows the text to tenants:
    name no host in it.

    :param driver: the driver's name, str
    :param reason: what kept it from answering, str
    """

    def __init__(self, driver, reason):
        super().__init__('The service from servicegroup driver %s is '
                         'temporarily unavailable: %s' % (driver, reason))
        self.driver = driver
        self.reason = reason


if nova_exception is not None:
    # oslo.messaging sends the names of the class and of its module, and at
    # the other end, where this package need not be installed, Nova lets it
    # make objects of nova.exception only. Tracebacks show __qualname__.
    ServiceGroupUnavailable.__module__ = _Unavailable.__module__
    ServiceGroupUnavailable.__name__ = _Unavailable.__name__
