# SPDX-License-Identifier: Apache-2.0

"""Nova's notifications, in commands that change its records."""

import logging

from nova import rpc

#: attempts after the first one, so that another server of a cluster is tried
RETRIES = 1


def limit_notifications(conf):
    """Give up notifications that can't be sent, unless the operator set that.

    Nova sends one when a service is disabled or forced down. By default it
    waits without end if the message bus is lost after the first one, and
    doesn't try another server before. Call it after Nova has read its
    configuration.

    :param conf: Nova's configuration
    """
    conf.set_default('retry', RETRIES, group='oslo_messaging_notifications')
    # The notifiers have read the option already.
    rpc.cleanup()
    rpc.init(conf)
    # oslo.messaging logs the payload, and a traceback of 80 lines.
    logging.getLogger('oslo_messaging.notify.messaging').addFilter(_shorten)


def _shorten(record):
    if record.exc_info:
        record.msg = 'Nova\'s notification of the change cannot be sent: %s'
        record.args = (record.exc_info[1],)
        record.exc_info = None
    return True
