# SPDX-License-Identifier: Apache-2.0

"""Errors about URLs that hold a password, as texts without any part of it."""

ENCODE = ('percent-encode special characters in its user and password, such '
          'as %40 for @, %3A for :, %2F for /, %23 for #')
TRANSPORT = ('[DEFAULT] transport_url in nova.conf, or that of '
             '[oslo_messaging_notifications], cannot be used: write '
             'rabbit://nova:PASSWORD@HOST:5672/, and ' + ENCODE)
#: exceptions of Python, SQLAlchemy and oslo.messaging about the form of a URL
MALFORMED = frozenset(['ValueError', 'ArgumentError', 'InvalidTransportURL',
                       'DriverLoadFailure'])


def is_malformed(error, database=None):
    """Return whether an error is about the form of a URL.

    The text of such an error may quote a part of the password.

    :param database: URL of the database that raised it, or None
    """
    return (not MALFORMED.isdisjoint(
        kind.__name__ for kind in type(error).__mro__)
        # SQLAlchemy takes what follows the first @ for the server's name,
        # which drivers quote.
        or (database or '').count('@') > 1)


def reason(error, option, database=None):
    """Return why a server can't be used, in one line.

    :param error: an exception
    :param option: name of the option that has the URL
    :param database: as for ``is_malformed``
    """
    if is_malformed(error, database):
        return '%s is malformed: %s' % (option, ENCODE)
    return str(error).strip().partition('\n')[0] or type(error).__name__
