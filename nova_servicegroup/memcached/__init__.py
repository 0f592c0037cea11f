# SPDX-License-Identifier: Apache-2.0

"""Heartbeats in memcached: the format, the servers, and a reader's view."""
