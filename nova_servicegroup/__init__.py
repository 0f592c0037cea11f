# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Which of Nova's services are alive: told by them, asked by the others.

``API`` is made known here, as ``nova.servicegroup`` does it. It is imported
on first use: the keeper process is started from this package too and must
stay small.
"""


def __getattr__(name):
    if name == 'API':
        from nova_servicegroup import api
        return api.API
    raise AttributeError('module %r has no attribute %r' % (__name__, name))
