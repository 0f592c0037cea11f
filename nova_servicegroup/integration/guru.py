# SPDX-License-Identifier: Apache-2.0

"""A section about liveness in Nova's Guru Meditation Reports.

A report is written on a signal, in the middle of whatever the process does.
So nothing here takes a lock, logs, or asks a store: it tells what the process
knows already.
"""

import sys

TITLE = 'ServiceGroup'


def add_section(*drivers):
    """Let the reports of this process, if it makes any, tell of its drivers.

    Once for each process, whose API objects all have the same drivers. One
    that makes reports has imported oslo_reports by the time it makes the
    first.

    :param drivers: objects of drivers.base.Driver
    """
    reports = sys.modules.get('oslo_reports.guru_meditation_report')
    if reports is None or _drivers:
        return
    _drivers.extend(drivers)
    reports.TextGuruMeditation.register_section(TITLE, section)


_drivers = []


def section():
    """Return the section as it is now, a model of oslo_reports."""
    from oslo_reports.models import with_default_views
    return with_default_views.ModelWithDefaultViews(
        data={driver.name: _report(driver) for driver in _drivers})


def _report(driver):
    try:
        return driver.report()
    except Exception as e:
        # Or there would be no report at all.
        return 'cannot be told: %r' % e
