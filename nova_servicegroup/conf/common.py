# SPDX-License-Identifier: Apache-2.0

"""Options of how liveness is judged, whatever the driver."""

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
Seconds for which the end of a service's process is no loss of its host.

A nova-compute that was stopped, was killed or hangs gets no new instances at
once, and its instances run on. Everything that acts as if the host were gone
(evacuation, the service list that fencing tools read, a local delete) sees it
as down when its last sign of life is this old. So restarts and upgrades that
take less time stay invisible to these tools. More allows longer restarts; less
lets a host whose nova-compute doesn't come back be evacuated sooner; 0 is at
once. A host that loses power or network is not affected by this option.

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
            ('safe', 'the host counts as up: it is not evacuated and nothing '
                     'of it is deleted behind its back. The scheduler takes '
                     'it for new instances only if no other host is left'),
            ('up', 'the host counts as up for everybody: new instances may '
                   'go to a host that is dead'),
            ('down', 'the host counts as down for everybody: evacuation is '
                     'allowed, even of a host that still runs the instances'),
        ],
        help="""
What Nova is told when a driver can't tell whether a host is up.

Nova asks two questions by one method: may I place an instance there, and may I
act as if the host were gone? A wrong answer to the second one can start an
instance twice. No choice raises an error in Nova.

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
Part of the computes (0 to 1) whose silence at the same time is doubted.

When at least this part of the computes that report together, and at least two
of them, fall silent together, the message bus, the database or a switch is
more likely to have failed than all of these hosts. Then Nova is told what
``outage_policy`` says. The only compute of a cell is doubted as well, while
nothing shows that it could report. Less doubts smaller failures. A value above
1 turns the guard off: then every silent host is down.

A compute that was stopped gracefully or killed is believed in any case. To end
a doubt about hosts that are known to be dead, force them down.

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

More recognises outages that spread slowly, and doubts hosts that are switched
off one after the other.

Related options:

* ``[servicegroup] mass_failure_threshold``
"""),
    cfg.FloatOpt(
        'outage_grace',
        default=600.0,
        min=0,
        mutable=True,
        help="""
Seconds that hosts have to come back after an outage, at most.

While computes that were silent together come back one after the other, those
that are still missing are not down. They are down when none of the others came
back for ``service_down_time``, and at the latest this long after the first one
was back. More suits large deployments that take long to come back; less sees a
host sooner that was lost in the outage.

Related options:

* ``[servicegroup] mass_failure_threshold``
* ``[DEFAULT] service_down_time``
"""),
    cfg.ListOpt(
        'also_report',
        default=[],
        help="""
Drivers through which a service reports beside its own, by name.

For moving a deployment from one driver to another with no moment at which a
living host looks down: first let every node report through both, then switch
the readers over, then stop the old reports. Every driver named here costs its
own heartbeats; answers come from ``servicegroup_driver`` alone.

Related options:

* ``[DEFAULT] servicegroup_driver``
"""),
    cfg.BoolOpt(
        'leave_on_stop',
        default=True,
        help="""
Tell the store when the service is stopped gracefully.

True: the scheduler places nothing there from then on, and the rest of Nova
sees the service as down after ``restart_grace``. False: the last heartbeat
runs out by itself, and a planned stop of many services looks like an outage.

Related options:

* ``[servicegroup] restart_grace``
"""),
]
