# SPDX-License-Identifier: Apache-2.0

"""Registers the package from nova.conf, for read-only trees.

``config_source`` in nova.conf names it; oslo.config then loads it while Nova
reads its configuration. Nova 34 first reads its configuration through another
ConfigOpts object, before it chooses eventlet or threads. So this module
imports only the standard library and oslo.config, and does nothing for another
object than the CONF that Nova itself uses.
"""

import logging
import sys

from oslo_config import cfg
from oslo_config import sources

LOG = logging.getLogger(__name__)


class ConfigSourceDriver(sources.ConfigurationSourceDriver):
    """The ``oslo.config.driver`` entry point; not a source of values."""

    def list_options_for_discovery(self):
        return []

    def open_source_from_opt_group(self, conf, group_name):
        if conf is cfg.CONF and 'nova.conf' in sys.modules:
            from nova_servicegroup import exception
            from nova_servicegroup.integration import register
            try:
                register.register()
            except exception.UnsupportedNovaError as e:
                # Nova continues with its own drivers.
                LOG.error('%s', e)
        # It has no values to offer, so there is no source to open.
        return None
