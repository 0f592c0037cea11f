# SPDX-License-Identifier: Apache-2.0

"""The exceptions of this package.

``ConfigurationError``: an invalid option; names the option and the fix.
``InvalidMember``: the caller passed a record that no driver can judge.
``UnsupportedNovaError``: a Nova tree that this package doesn't know.
``ServiceGroupUnavailable``: the store can't be read; the state is unknown.
"""

try:
    from nova import exception as nova_exception
    # For this one, Nova's live migration and resize return an error to the
    # user and leave the instance unchanged; an unknown exception would put the
    # instance into ERROR (nova/conductor/manager.py).
    _Unavailable = nova_exception.ComputeServiceUnavailable
except ImportError:
    nova_exception = None
    _Unavailable = Exception


class ServiceGroupError(Exception):
    """Base of this package's exceptions, except ServiceGroupUnavailable."""


class ConfigurationError(ServiceGroupError, ValueError):
    """An option has an invalid value; the text says how to correct it."""


class InvalidMember(ServiceGroupError, RuntimeError):
    """A member lacks a field that is needed to report or judge it."""


class UnsupportedNovaError(ServiceGroupError, RuntimeError):
    """This Nova's code differs from that of the known releases."""


class ServiceGroupUnavailable(_Unavailable):
    """The driver can't tell whether a service is up.

    Inside Nova it is a ``ComputeServiceUnavailable``, also after RPC, with the
    same text. Nova shows the text to tenants: name no host in it.

    :param driver: the driver's name, str
    :param reason: why the driver can't tell, str
    """

    def __init__(self, driver, reason):
        super().__init__('The service from servicegroup driver %s is '
                         'temporarily unavailable: %s' % (driver, reason))
        self.driver = driver
        self.reason = reason


if nova_exception is not None:
    # oslo.messaging sends the names of the class and its module. The receiver
    # need not have this package, and creates exceptions of nova.exception
    # only. Tracebacks show __qualname__.
    ServiceGroupUnavailable.__module__ = _Unavailable.__module__
    ServiceGroupUnavailable.__name__ = _Unavailable.__name__
