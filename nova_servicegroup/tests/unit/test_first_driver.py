# SPDX-License-Identifier: Apache-2.0

"""The driver of the contributor guide, by the test that is printed there."""

import sys
import types

from nova_servicegroup import drivers
from nova_servicegroup.tests.fixtures import texts

PAGE = 'doc/source/contributor/first-driver.rst'


def _module(name, block):
    module = types.ModuleType(name)
    exec(compile(texts.block(PAGE, block), PAGE, 'exec'), vars(module))
    return module


_driver = _module('nova_servicegroup.drivers.folder', 'folder-driver')
# As if the file were in the package, for the import in the test only.
sys.modules[_driver.__name__] = drivers.folder = _driver
try:
    _test = _module('test_folder', 'folder-test')
finally:
    del sys.modules[_driver.__name__], drivers.folder

world, TestFolderDriver = _test.world, _test.TestFolderDriver
