# SPDX-License-Identifier: Apache-2.0

"""A script: unit tests of the Nova that runs it.

``python nova_unit_tests.py RESULT NAME...`` runs the tests of modules or
classes, or single ones, and writes what came of them to the file RESULT, as
JSON. Neither of the usual programs serves: stestr imports all of nova.tests
to run a few modules, and at their end Nova's tests take away what pytest
looks for then.
"""

import json
import sys
import unittest
import warnings

import nova.tests.unit  # noqa: F401, chooses the concurrency as Nova does

from nova.tests import fixtures as nova_fixtures


class Result(unittest.TestResult):
    """Keeps the ids of all tests, and what those that failed said."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def startTest(self, test):  # noqa: N802
        super().startTest(test)
        self.ran.append(test.id())

    def as_dict(self):
        failed = {test.id(): text for test, text in
                  self.errors + self.failures}
        failed.update((test.id(), 'unexpected success')
                      for test in self.unexpectedSuccesses)
        return {'ran': self.ran, 'failed': failed,
                'skipped': {test.id(): why for test, why in self.skipped}}


def allow_noload():
    """Let SQLAlchemy 2.1 warn of an option that Nova uses.

    Nova's tests make all its warnings errors, but are older than this one.
    """
    make_errors = nova_fixtures.WarningsFixture.setUp

    def set_up(self):
        make_errors(self)
        warnings.filterwarnings('ignore', r'The noload\(\) option')

    nova_fixtures.WarningsFixture.setUp = set_up


def main(path, names):
    allow_noload()
    result = Result()
    unittest.defaultTestLoader.loadTestsFromNames(names).run(result)
    with open(path, 'w') as f:
        json.dump(result.as_dict(), f)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
