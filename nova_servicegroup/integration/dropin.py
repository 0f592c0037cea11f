# SPDX-License-Identifier: Apache-2.0

"""The drop-in: one marked block in ``nova/servicegroup/__init__.py``.

The block calls ``register()`` when Nova imports ``nova.servicegroup``. If the
package is missing, Nova logs one error and uses its own drivers. Writing is
atomic, keeps mode and owner, is verified in another interpreter, and is undone
if that fails.
"""

import ast
import contextlib
import difflib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

_BEGIN = '# >>> nova-servicegroup drop-in >>>'
_END = '# <<< nova-servicegroup drop-in <<<'

_BLOCK = _BEGIN + '''
# Written by "nova-servicegroup dropin install"; "dropin remove" takes it out.
try:
    from nova_servicegroup import register as _nova_servicegroup
    _nova_servicegroup.register()
except Exception as _error:
    from oslo_log import log as _log
    _unlogged = [
        'nova-servicegroup is dropped into this Nova but cannot be used, so '
        'Nova uses its own drivers and knows no zk. Install nova-servicegroup '
        'again, or take the marked block out of %s. (%s: %s)' % (
            __file__, type(_error).__name__, _error)]

    class API(API):
        # A service has no log yet when it imports this.
        def __init__(self, *args, **kwargs):
            if _unlogged:
                _log.getLogger(__name__).error(_unlogged.pop())
            super().__init__(*args, **kwargs)
''' + _END

_BLOCK_PATTERN = re.compile(
    rb'\r?\n' + re.escape(_BEGIN.encode()) + rb'\r?\n.*?' +
    re.escape(_END.encode()) + rb'\r?\n', re.DOTALL)

# What nova/servicegroup/__init__.py does in Nova 26 to 34, comments aside.
_KNOWN = ast.dump(ast.parse(
    'from nova.servicegroup import api\nAPI = api.API'))

_CHECK = '''
import os, pathlib, pwd, sys
if sys.argv[2:]:
    sys.path.insert(0, sys.argv[1])
from nova import servicegroup
from nova.conf import servicegroup as options
tree = pathlib.Path(sys.argv[1]).resolve()
found = pathlib.Path(servicegroup.__file__).resolve()
if tree not in found.parents:
    sys.exit('it imports nova from %s' % found)
try:
    from nova_servicegroup import api
except ImportError as e:
    sys.exit('%s: install nova-servicegroup for this Python' % e)
if servicegroup.API is not api.API:
    sys.exit(*getattr(servicegroup, '_unlogged', [
        'nova.servicegroup.API is still that of Nova']))
users = [user for user in pwd.getpwall() if user.pw_name == 'nova']
if users and os.geteuid() == 0:
    os.initgroups('nova', users[0].pw_gid)
    os.setgid(users[0].pw_gid)
    os.setuid(users[0].pw_uid)
    if os.access(servicegroup.__file__, os.R_OK) and not os.access(
            api.__file__, os.R_OK):
        sys.exit('the user nova may not read %s: install nova-servicegroup '
                 'with umask 022' % api.__file__)
'''

#: seconds; importing Nova takes some
CHECK_LIMIT = 60

#: the states of ``Tree.state``
INSTALLED = 'installed'
NOT_INSTALLED = 'not installed'
OUTDATED = 'installed, but by another version of nova-servicegroup'
BROKEN = 'installed, but without effect'


class DropInError(Exception):
    """A drop-in can't be written or removed; the text says what to do."""


class Tree:
    """A tree that holds a ``nova`` package.

    :param path: the folder that holds ``nova/``, or ``nova/`` itself; by
        default the one that this interpreter imports
    :param python: the interpreter that runs this Nova; by default derived
        from the path of the tree
    :raises DropInError: there is no Nova
    """

    def __init__(self, path=None, python=None):
        self._named_python = python
        if path is None:
            spec = importlib.util.find_spec('nova')
            if spec is None or not spec.submodule_search_locations:
                raise DropInError(
                    'There is no nova for %s: run this with the Python that '
                    'Nova runs with, or name the tree with --nova PATH.'
                    % sys.executable)
            nova = pathlib.Path(next(iter(spec.submodule_search_locations)))
        else:
            nova = pathlib.Path(path)
            if (nova / 'nova').is_dir():
                nova = nova / 'nova'
        self.root = nova.absolute().parent
        self.file = self.root / 'nova' / 'servicegroup' / '__init__.py'
        if nova.name != 'nova' or not self.file.is_file():
            raise DropInError(
                'There is no nova/servicegroup/__init__.py in %s: name the '
                'folder that holds nova/ with --nova PATH.' % nova)

    @property
    def version(self):
        """Nova's version in its package metadata, or None."""
        for found in importlib.metadata.distributions(
                name='nova', path=[str(self.root)]):
            return found.version
        return None

    def state(self):
        """Return one of the module's states, and the reason if it is BROKEN.

        Starts an interpreter to check that the block takes effect.
        """
        state = self.content_state()
        failure = self._check() if state == INSTALLED else None
        return (BROKEN, failure) if failure else (state, None)

    def content_state(self):
        """Return INSTALLED, OUTDATED or NOT_INSTALLED, by the file alone."""
        content = self._read()
        pristine = _without_block(content, self.file)
        if pristine == content:
            return NOT_INSTALLED
        return INSTALLED if _with_block(pristine) == content else OUTDATED

    def change(self, install, force=False):
        """Return (old content, new content) of the file, as bytes.

        :param install: add the block, else remove it
        :param force: also change a file that isn't recognised
        :raises DropInError: the file isn't recognised
        """
        content = self._read()
        pristine = _without_block(content, self.file)
        if not install:
            return content, pristine
        if not force and not _is_known(pristine):
            raise DropInError(
                '%s is not like that of Nova 26 to 34, so the drop-in may not '
                'fit: look at the file, and use --force if its API may be '
                'replaced. Nothing was written.' % self.file)
        return content, _with_block(pristine)

    def apply(self, old, new, check):
        """Write ``new`` in place of ``old``, atomically.

        :param check: verify in another interpreter that the block takes
            effect, and restore ``old`` if not
        :raises DropInError: it can't be written, or has no effect
        """
        self._write(new)
        if not check:
            return
        try:
            failure = self._check()
        except BaseException:
            # Interrupted, so the result is unknown.
            self._write(old)
            raise
        if failure:
            self._write(old)
            raise DropInError(
                'The drop-in has no effect in %s, so it was taken out again: '
                '%s' % (self.root, failure))

    def diff(self, old, new, place=None):
        """Return the change as a unified diff.

        Apply it with ``patch -p1`` in the folder that holds ``nova/``.

        :param place: the path of that folder; apply the diff with ``patch
            -p0`` in the root of the file system then
        """
        name = 'nova/servicegroup/__init__.py'
        names = ('a/' + name, 'b/' + name) if place is None else (
            str(pathlib.PurePath(place, name)).lstrip('/'),) * 2
        lines = difflib.diff_bytes(
            difflib.unified_diff, old.splitlines(True), new.splitlines(True),
            *map(str.encode, names))
        return b''.join(
            line if line.endswith(b'\n') else
            line + b'\n\\ No newline at end of file\n' for line in lines)

    def _read(self):
        try:
            return self.file.read_bytes()
        except OSError as e:
            raise DropInError('Cannot read %s: %s.' % (
                self.file, e.strerror)) from e

    def _write(self, content):
        """Replace the file atomically."""
        status = self.file.stat()
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(
                dir=self.file.parent, prefix='.nova-servicegroup-')
            with open(handle, 'wb') as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            # Mode and, where there are any, extended attributes (SELinux).
            shutil.copystat(self.file, temporary)
            os.utime(temporary)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, status.st_uid, status.st_gid)
            os.replace(temporary, self.file)
        except OSError as e:
            if temporary is not None:
                pathlib.Path(temporary).unlink(missing_ok=True)
            raise DropInError(
                'Cannot write %s: %s. Nothing was changed. Run this as the '
                'owner of the tree; where it is read-only, use "nova-'
                'servicegroup dropin export -o DIR" when the tree is built, '
                'or the configuration hook (config_source).' % (
                    self.file, e.strerror)) from e
        for stale in self.file.parent.glob('__pycache__/__init__.*.pyc'):
            # Some builds ignore the time of the source. If the file can't be
            # removed, the check shows whether that matters.
            with contextlib.suppress(OSError):
                stale.unlink()

    def _check(self):
        """Return why the block has no effect, or None when it has.

        :raises DropInError: the Python that runs this Nova is unknown
        """
        python = self.python()
        # Isolated: Nova's services have neither the PYTHONPATH nor the user
        # packages of this command.
        command = [python, '-I', '-c', _CHECK, str(self.root)]
        if self._named_python:
            command.append('first on its path')
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=CHECK_LIMIT)
        except subprocess.TimeoutExpired:
            return '%s does not import it within %d s' % (python, CHECK_LIMIT)
        except OSError as e:
            return '%s cannot be run: %s' % (python, e.strerror)
        if done.returncode == 0:
            return None
        return '%s says: %s' % (python, done.stderr.strip()[-1500:])

    def python(self):
        """Return the interpreter that runs the Nova of this tree.

        Not simply this one: if Nova is a system package and this command is in
        a virtual environment, the two have different packages.
        """
        if self._named_python:
            return self._named_python
        library = self.root.parent
        prefix = library.parent.parent
        if self.root.name == 'dist-packages' and prefix.name == 'local':
            # Debian's Python uses /usr/local/lib/pythonX.Y/dist-packages.
            prefix = prefix.parent
        if self.root.name in ('site-packages', 'dist-packages'):
            # <prefix>/lib/pythonX.Y/site-packages
            for name in (library.name, 'python3', 'python'):
                if (prefix / 'bin' / name).exists():
                    return str(prefix / 'bin' / name)
        spec = importlib.util.find_spec('nova')
        if spec is not None and any(
                pathlib.Path(place).resolve()
                == (self.root / 'nova').resolve()
                for place in spec.submodule_search_locations or ()):
            return sys.executable
        raise DropInError(
            'The Python that runs the Nova in %s is unknown, so the effect of '
            'the drop-in cannot be checked: name it with --python PATH.'
            % self.root)


def _with_block(pristine):
    """Return a file's content with the block at its end."""
    newline = b'\r\n' if b'\r\n' in pristine else b'\n'
    block = _BLOCK.encode().replace(b'\n', newline)
    # The first newline ends an unfinished last line, or is an empty one: in
    # either case, removing the block and this newline restores the file.
    return pristine + newline + block + newline


def _without_block(content, file):
    """Return a file's content without the block, if it has one."""
    rest, count = _BLOCK_PATTERN.subn(b'', content)
    if not count == content.count(_BEGIN.encode()) == content.count(
            _END.encode()) or count > 1:
        raise DropInError(
            'The marks of the drop-in in %s are not one pair, so its lines '
            'are not known: remove those between "%s" and "%s" by hand.'
            % (file, _BEGIN, _END))
    return rest


def _is_known(content):
    try:
        body = ast.parse(content).body
    except (SyntaxError, ValueError):
        return False
    if body and isinstance(body[0], ast.Expr):
        body = body[1:]  # the docstring
    return ast.dump(ast.Module(body, [])) == _KNOWN
