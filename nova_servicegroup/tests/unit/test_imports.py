# SPDX-License-Identifier: Apache-2.0

"""What may be imported before Nova has chosen its concurrency.

Nova 34 refuses to start in native threads when eventlet was imported first.
Each case runs in an interpreter of its own.
"""

import subprocess
import sys

import pytest

from nova_servicegroup.tests.fixtures import tree

EARLY = ['', '.api', '.conf', '.exception', '.liveness', '.per_process',
         '.integration.service_records', '.drivers', '.drivers.base']


def imported_by(module):
    """Return the names of all modules loaded after importing one."""
    code = 'import sys, %s; print(*sorted(sys.modules))' % module
    done = subprocess.run([sys.executable, '-c', code], check=True,
                          capture_output=True, text=True)
    return set(done.stdout.split())


@tree.needs_native_threads
@pytest.mark.parametrize('name', EARLY)
def test_early_modules_do_not_bring_eventlet(name):
    modules = imported_by('nova_servicegroup' + name)
    assert 'nova_servicegroup' + name in modules
    assert not modules & {'eventlet', 'oslo_service.service',
                          'oslo_messaging', 'futurist'}


def test_the_package_itself_is_nearly_empty():
    modules = imported_by('nova_servicegroup')
    assert not modules & {'oslo_config', 'nova', 'oslo_log'}


@tree.needs_native_threads
def test_drivers_come_after_the_choice():
    """The order in which a Nova service in native threads imports them."""
    code = ('from nova import monkey_patch; '
            'monkey_patch.patch(backend="threading"); '
            'import nova_servicegroup; '
            'from nova_servicegroup import drivers; '
            'from oslo_utils import importutils; '
            '[importutils.import_class(d) for d in drivers.DRIVERS.values()];'
            'import sys; assert "eventlet" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)
