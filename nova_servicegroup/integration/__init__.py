# SPDX-License-Identifier: Apache-2.0

"""The code that depends on Nova's internals."""
