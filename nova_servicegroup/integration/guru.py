# SPDX-License-Identifier: Apache-2.0

"""A section about liveness in Nova's Guru Meditation Reports.

A signal may start a report at any moment. So nothing here takes a lock, logs,
or reads a store: the section shows what the process has in memory.
"""

import sys

TITLE = 'ServiceGroup'


def add_section(*drivers):
    """Add a section about the drivers to the reports of this process.

    Once per process, as all its API objects have the same drivers. A process
    that makes reports has imported oslo_reports before its first API object.

    :param drivers: objects of drivers.base.Driver
    """
    reports = sys.modules.get('oslo_reports.guru_meditation_report')
    if reports is None or _drivers:
        return
    _drivers.extend(drivers)
    reports.TextGuruMeditation.register_section(TITLE, section)


_drivers = []


def section():
    """Return the section, a model of oslo_reports."""
    from oslo_reports.models import with_default_views
    return with_default_views.ModelWithDefaultViews(
        data={driver.name: _report(driver) for driver in _drivers})


def _report(driver):
    try:
        return driver.report()
    except Exception as e:
        # Otherwise there would be no report at all.
        return 'cannot be told: %r' % e
