# SPDX-License-Identifier: Apache-2.0

"""Options of all drivers."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'servicegroup', title='Liveness of services',
    help='How the drivers of nova-servicegroup judge whether a service is up.')

OPTS = [
    cfg.FloatOpt(
        'restart_grace',
        min=0,
        mutable=True,
        help="""
Seconds after which a service whose process ended counts as down.

A nova-compute that was stopped gets no new instances from then on; with the zk
driver, neither does one that was killed or hangs. Its instances keep running.
Callers that act on a lost host (evacuation, the service list that fencing
tools read, a local delete) see it as down when its last sign of life is this
old. Restarts and upgrades that take less time stay invisible to these tools.
Higher values allow longer restarts; lower values allow an earlier evacuation
when nova-compute doesn't come back; 0 means at once. A host that loses power
or network is not affected.

Default: the value of ``[DEFAULT] service_down_time``.

Related options:

* ``[DEFAULT] service_down_time``
* ``[servicegroup] leave_on_stop``
"""),
    cfg.StrOpt(
        'outage_policy',
        default='safe',
        mutable=True,
        choices=[
            ('safe', 'the host counts as up: it is not evacuated, and its '
                     'instances are not deleted without it. The scheduler '
                     'uses it for new instances only if no other host is '
                     'left'),
            ('up', 'the host counts as up for all callers: new instances may '
                   'be placed on a dead host'),
            ('down', 'the host counts as down for all callers: evacuation is '
                     'allowed, even if the host still runs the instances'),
        ],
        help="""
The answer to Nova when a driver can't tell whether a host is up.

Nova asks two questions with one method: may an instance be placed there, and
is the host lost? A wrong answer to the second one can start an instance twice.
No choice raises an error in Nova.

Related options:

* ``[servicegroup] mass_failure_threshold``
* ``[servicegroup] outage_grace``
"""),
    cfg.FloatOpt(
        'mass_failure_threshold',
        default=0.5,
        min=0,
        mutable=True,
        help="""
Share of the computes (0 to 1) whose silence at the same time is doubted.

When at least this share of the reporting computes, and at least two, fall
silent together, the message bus, the database or a switch has more likely
failed than all of these hosts. ``outage_policy`` then decides the answer. The
only compute of a cell is doubted, too, while nothing shows that it could
report. Lower values also doubt smaller failures. A value above 1 turns the
guard off: every silent host is down.

The proven end of a process (stopped or killed) is never doubted. To end a
doubt about hosts that are known to be dead, force them down.

Related options:

* ``[servicegroup] mass_failure_window``
* ``[servicegroup] outage_grace``
* ``[servicegroup] outage_policy``
"""),
    cfg.FloatOpt(
        'mass_failure_window',
        default=300.0,
        min=0,
        mutable=True,
        help="""
Seconds within which computes must fall silent to count as silent together.

Higher values recognise outages that spread slowly, but also doubt hosts that
are switched off one after the other.

Related options:

* ``[servicegroup] mass_failure_threshold``
"""),
    cfg.FloatOpt(
        'outage_grace',
        default=600.0,
        min=0,
        mutable=True,
        help="""
Maximum time in seconds for hosts to come back after an outage.

While computes that were silent together come back one after the other, those
that are still silent are not down. They are down when no other came back for
``service_down_time``, at the latest this long after the first one came back.
Higher values suit large deployments that recover slowly; lower values detect
hosts that were lost in the outage sooner.

Related options:

* ``[servicegroup] mass_failure_threshold``
* ``[DEFAULT] service_down_time``
"""),
    cfg.ListOpt(
        'also_report',
        default=[],
        help="""
Names of further drivers through which a service reports.

For changing the driver of a deployment while no living host looks down: first
let every node report through both drivers, then switch the readers, then stop
the old reports. Each driver named here sends its own heartbeats; answers come
from ``servicegroup_driver`` only.

Related options:

* ``[DEFAULT] servicegroup_driver``
"""),
    cfg.BoolOpt(
        'leave_on_stop',
        default=True,
        help="""
Write to the store that the service is stopped gracefully.

True: the scheduler places nothing there from then on, and other callers see
the service as down after ``restart_grace``. False: the last heartbeat expires,
and a planned stop of many services looks like an outage.

Related options:

* ``[servicegroup] restart_grace``
"""),
]
