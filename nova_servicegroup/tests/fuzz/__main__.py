# SPDX-License-Identifier: Apache-2.0

"""Feed what is read from outside with random and nearly valid values.

    python -m nova_servicegroup.tests.fuzz [--inputs 1000000] [--seed N]
        [--only TARGET[:NUMBER]]

Each input is made from the seed, its target and its number alone. What is
wrong is printed with the command that does it again, and makes the exit code
1. An input fails when

* anything is raised but the exceptions that are documented;
* somebody is up for whom no writer wrote so;
* it takes more than ``SECONDS`` of processor time, or of waiting, or more
  than ``MEGABYTES``.

On a terminal it shows how far it is; in a pipe there is one line at the end.
"""

import argparse
import logging
import random
import resource
import signal
import sys
import time
import traceback
import warnings

# That of eventlet about itself, when something imports it.
warnings.simplefilter('ignore')

from nova_servicegroup.tests.fuzz import chaos  # noqa: E402
from nova_servicegroup.tests.fuzz import targets  # noqa: E402

SECONDS = 2
MEGABYTES = 64
#: an end is made when so many inputs failed
MOST_FAILURES = 20


class TooSlow(BaseException):
    """Not to be caught by what is tested."""


class Watchdog:
    """Ends an input that takes too long. Costs nothing for each input."""

    def __init__(self):
        self.number = 0
        self._seen = {}

    def __enter__(self):
        for timer, number in ((signal.ITIMER_PROF, signal.SIGPROF),
                              (signal.ITIMER_REAL, signal.SIGALRM)):
            signal.signal(number, self._look)
            # One that waits: others may have the processor.
            seconds = SECONDS * (10 if timer == signal.ITIMER_REAL else 1)
            signal.setitimer(timer, seconds, seconds)
        return self

    def __exit__(self, *exc_info):
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, which, frame):
        if self._seen.get(which) == self.number:
            raise TooSlow('it takes too long')
        self._seen[which] = self.number


class Run:
    """One run over all targets.

    :param seed: int
    """

    def __init__(self, seed):
        self.seed = seed
        self.done = 0
        self.failures = 0
        self._watchdog = Watchdog()
        self._interactive = sys.stderr.isatty()
        self._told_at = 0

    def fuzz(self, target, numbers, total):
        with self._watchdog:
            memory = _megabytes()
            for number in numbers:
                self._watchdog.number = self.done
                self._one(target, number)
                self.done += 1
                if self.done % 256 == 0:
                    self._show(target, total)
                    # The most that the process ever had: it only grows.
                    now = _megabytes()
                    if now - memory > MEGABYTES:
                        self._failed(target, '%d-%d' % (number - 255, number),
                                     'they took %d MB' % (now - memory))
                    memory = now
                if self.failures >= MOST_FAILURES:
                    return

    def _one(self, target, number):
        value = target.make(chaos.Chaos(
            '%s:%s:%s' % (self.seed, target.name, number)))
        try:
            target.check(value)
        except (Exception, TooSlow):
            self._failed(target, number, '%s\nThe input: %.1000r' % (
                traceback.format_exc(), value))

    def _failed(self, target, number, what):
        self.failures += 1
        print('%s\nAgain: python -m nova_servicegroup.tests.fuzz --seed %s '
              '--only %s:%s\n' % (what, self.seed, target.name, number),
              flush=True)

    def _show(self, target, total):
        if self._interactive and time.monotonic() - self._told_at > 0.2:
            self._told_at = time.monotonic()
            print('\r%9d of %d: %-12s' % (self.done, total, target.name),
                  end='', file=sys.stderr, flush=True)

    def end_line(self):
        if self._interactive:
            print('\r%-40s\r' % '', end='', file=sys.stderr, flush=True)


def _megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(inputs, seed, only):
    # Formatted, but not shown: that must not fail either.
    logging.basicConfig(level=logging.DEBUG, handlers=[targets.Formatted()])
    name, _, number = (only or '').partition(':')
    chosen = [kind() for kind in targets.TARGETS if name in ('', kind.name)]
    if not chosen:
        raise SystemExit('The targets are: %s' % ' '.join(
            kind.name for kind in targets.TARGETS))
    run = Run(seed)
    began = time.monotonic()
    weights = sum(target.weight for target in chosen)
    for target in chosen:
        count = -(-inputs * target.weight // weights)
        first, _, last = number.partition('-')
        run.fuzz(target, range(int(first), int(last or first) + 1)
                 if number else range(count), inputs)
    run.end_line()
    print('%d inputs in %.0f s with the seed %s: %d failed' % (
        run.done, time.monotonic() - began, seed, run.failures))
    return 1 if run.failures else 0


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0])
    parser.add_argument('--inputs', type=int, default=1000000)
    parser.add_argument('--seed', type=int,
                        default=random.randrange(10 ** 9))
    parser.add_argument('--only', metavar='TARGET[:NUMBER]')
    sys.exit(main(**vars(parser.parse_args())))
