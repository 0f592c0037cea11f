# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration of the release notes."""

project = 'nova-servicegroup release notes'
copyright = 'nova-servicegroup contributors'
extensions = ['openstackdocstheme', 'reno.sphinxext']
html_theme = 'openstackdocs'
pygments_style = 'native'
openstackdocs_repo_name = 'nova-servicegroup'
openstackdocs_pdf_link = False
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_use_storyboard = False
