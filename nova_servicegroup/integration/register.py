# SPDX-License-Identifier: Apache-2.0

"""Registers the package with the Nova of this process.

Called by the drop-in at the end of ``nova/servicegroup/__init__.py``, or by
the configuration hook. Nova 34 has a hard-coded mapping of driver names, and
an option with two choices; this adds to both before Nova reads them. Nothing
imported here imports eventlet.
"""

import collections.abc
import sys

from oslo_log import log as logging

from nova_servicegroup import conf as sg_conf
from nova_servicegroup import drivers
from nova_servicegroup import exception

LOG = logging.getLogger(__name__)

_ZK_HELP = 'ZooKeeper ServiceGroup driver, from nova-servicegroup'


def register():
    """Make Nova use this package's API and drivers. Idempotent.

    Replaces ``nova.servicegroup.API`` by ours, which adds ``leave``,
    ``get_all`` and ``get_one``; adds the choice ``zk`` to
    ``servicegroup_driver``; registers the package's options; adds the category
    ``service`` to nova-manage.

    Must be called before services make their API objects.

    :raises UnsupportedNovaError: this Nova differs from 26 to 34; nothing was
        changed
    """
    from nova import servicegroup
    from nova.servicegroup import api as nova_api
    from nova_servicegroup import api

    if nova_api.API is not api.API:
        mapping, choices = _expected_parts(nova_api)
        mapping.update(drivers.DRIVERS)
        choices.setdefault('zk', _ZK_HELP)
        sg_conf.register_opts(nova_api.CONF)
        nova_api.API = api.API
    servicegroup.API = api.API
    _add_service_category()


def _expected_parts(nova_api):
    """Return Nova's mapping of drivers and the choices of its option."""
    mapping = getattr(nova_api, '_driver_name_class_mapping', None)
    if not isinstance(mapping, dict) or 'db' not in mapping:
        raise _unknown('nova.servicegroup.api._driver_name_class_mapping, a '
                       'dict with the driver db', mapping)
    for name in ('join', 'service_is_up', 'get_updated_time'):
        if not callable(getattr(nova_api.API, name, None)):
            raise _unknown('nova.servicegroup.api.API.%s' % name, None)
    from nova.conf import servicegroup as nova_conf
    choices = None
    for option in getattr(nova_conf, 'SERVICEGROUP_OPTS', ()):
        if option.name == 'servicegroup_driver':
            choices = getattr(option.type, 'choices', None)
    if not isinstance(choices, collections.abc.MutableMapping):
        raise _unknown('an option servicegroup_driver whose choices can be '
                       'added to', choices)
    return mapping, choices


def _unknown(expected, found):
    return exception.UnsupportedNovaError(
        'nova-servicegroup does not know this Nova: expected %s, found %r. '
        'Nothing was changed, Nova uses its own drivers. Nova 26 to 34 are '
        'known; look for a newer nova-servicegroup, or remove it with '
        '"nova-servicegroup dropin remove".' % (expected, found))


def _add_service_category():
    """Add the ``service`` category if this process is nova-manage.

    nova-manage reads its categories after its imports, during which this runs.
    Importing nova.cmd here would monkey-patch other processes (Nova 26 to 31
    do that on import).
    """
    common = sys.modules.get('nova.cmd.common')
    if common is None or hasattr(common.add_command_parsers, 'has_service'):
        return
    add_command_parsers = common.add_command_parsers
    print_bash_completion = common.print_bash_completion

    def with_service(categories):
        if 'cell_v2' in categories and 'service' not in categories:
            from nova_servicegroup.cmd import manage
            categories['service'] = manage.ServiceCommands
        return categories

    def add_parsers(subparsers, categories):
        return add_command_parsers(subparsers, with_service(categories))

    def print_completion(categories):
        return print_bash_completion(with_service(categories))

    add_parsers.has_service = True
    common.add_command_parsers = add_parsers
    common.print_bash_completion = print_completion
