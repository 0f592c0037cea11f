# SPDX-License-Identifier: Apache-2.0

"""Registers the package from nova.conf, for trees that can't be written to.

Named by ``config_source`` in a file of nova.conf.d; oslo.config then loads it
while Nova reads its configuration. Nova 34 reads its configuration once before
it has chosen its concurrency, through a ConfigOpts object of its own, so at
import this needs the standard library and oslo.config only, and it does
nothing unless it is handed the CONF that Nova itself uses.
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
                # Nova goes on with its own drivers.
                LOG.error('%s', e)
        # It has no values to offer, so there is no source to open.
        return None
