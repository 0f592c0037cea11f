# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration of the documentation."""

import fnmatch
import re

from cliff import sphinxext
from docutils import nodes

from nova_servicegroup.cmd import main

project = 'nova-servicegroup'
copyright = 'nova-servicegroup contributors'
extensions = ['sphinx.ext.autodoc', 'cliff.sphinxext', 'oslo_config.sphinxext']
# Not OpenStack's: the project isn't one of its governance.
html_theme = 'furo'
html_title = project
# Two hyphens begin an option.
smartquotes_action = 'qe'
autoprogram_cliff_application = autoprogram_cliff_app_dist_name = main.NAME
man_pages = [('cli/nova-servicegroup', main.NAME,
              'liveness of Nova services: who is up, why, and what to do',
              [copyright], 1)]


class Commands(sphinxext.AutoprogramCliffDirective):
    """The commands whose names match, from the program's own table.

    cliff's directive finds those only that are entry points.
    """

    final_argument_whitespace = True

    def _load_commands(self):
        return {name: command.load() for name, command in main.Commands()
                if fnmatch.fnmatch(name, self.arguments[0])}

    def _load_app(self):
        return None


# The README is the first page. Its links are files there, and pages here.
_ELSEWHERE = {
    'CONTRIBUTING.rst': ':doc:`%s </contributor/contributing>`',
    'etc/nova/snippets': ':doc:`%s </configuration/index>`'}


def _link(match):
    text, target = match[1], match[2]
    if target.startswith('doc/source/'):
        return ':doc:`%s </%s>`' % (
            text, target[len('doc/source/'):-len('.rst')])
    return _ELSEWHERE.get(
        target, ':download:`%%s <../../%s>`' % target) % text


def _link_to_pages(app, path, parent, content):
    if path.name == 'README.rst':
        content[0] = re.sub(
            r'`([^`<]+?)\s*<((?!https?:)[^>`]+)>`_', _link,
            content[0]).replace('.. image:: ', '.. image:: ../../')


def _name_pages(app, doctree, docname):
    # In a man page the links would be empty brackets.
    if app.builder.name == 'man':
        for link in list(doctree.findall(nodes.reference)):
            if not link.get('refuri'):
                link.replace_self(nodes.Text('"%s"' % link.astext()))


def setup(app):
    app.add_directive('commands', Commands)
    app.connect('include-read', _link_to_pages)
    app.connect('doctree-resolved', _name_pages)
