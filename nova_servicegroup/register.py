# SPDX-License-Identifier: Apache-2.0

"""``register()``, as the drop-in imports it.

The block in a Nova tree stays when this package is upgraded, so this name must
not change.
"""

from nova_servicegroup.integration.register import register

__all__ = ['register']
