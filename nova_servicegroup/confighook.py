# SPDX-License-Identifier: Apache-2.0

"""The configuration hook by the name that installations made before know.

Goes with the next installation: the entry point names the module itself.
"""

from nova_servicegroup.integration.confighook import ConfigSourceDriver

__all__ = ['ConfigSourceDriver']
