# The agent on a booted image: TEST_SUITES:append = " pyvorin_edge" runs it with bitbake -c testimage.
#
# SPDX-License-Identifier: Apache-2.0

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase
from oeqa.runtime.decorator.package import OEHasPackage

# Start, hash of the first reading and READY on an emulated board; systemd's own limit is 90 s.
START_SECONDS_MAX = 120


class PyvorinEdgeTest(OERuntimeTestCase):

    def succeeds(self, command):
        status, output = self.target.run(command)
        self.assertEqual(status, 0, '%s: %s' % (command, output))
        return output.strip()

    @OEHasPackage(['pyvorin-edge', 'pyvorin-edge-bin'])
    @OETestDepends(['ssh.SSHTest.test_ssh'])
    def test_the_service_runs(self):
        self.succeeds('timeout %d sh -c "until systemctl is-active pyvorin-edge; do sleep 1; done"' % START_SECONDS_MAX)
        self.assertEqual(self.succeeds('systemctl show -P User pyvorin-edge'), 'pyvorin-edge')
        self.assertEqual(self.succeeds('stat -c %U:%a /var/lib/pyvorin-edge'), 'pyvorin-edge:750')

    @OETestDepends(['pyvorin_edge.PyvorinEdgeTest.test_the_service_runs'])
    def test_the_health_page_answers(self):
        self.assertIn('"status"', self.succeeds('wget -q -O - http://127.0.0.1:8080/health'))

    @OETestDepends(['pyvorin_edge.PyvorinEdgeTest.test_the_service_runs'])
    def test_the_socket_is_installed_and_off(self):
        _, output = self.target.run('systemctl is-enabled pyvorin-edge.socket')
        self.assertEqual(output.strip(), 'disabled')

    @OEHasPackage(['pyvorin-edge-board'])
    @OETestDepends(['pyvorin_edge.PyvorinEdgeTest.test_the_service_runs'])
    def test_the_limit_is_that_of_the_board(self):
        names = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
        _, value = self.target.run('sed -n s/^MemoryMax=//p /usr/lib/systemd/system/pyvorin-edge.service.d/0-board.conf')
        value = value.strip()
        if value and value[-1] in names:
            self.assertEqual(int(self.succeeds('systemctl show -P MemoryMax pyvorin-edge')), int(value[:-1]) * names[value[-1]])

    @OETestDepends(['pyvorin_edge.PyvorinEdgeTest.test_the_service_runs'])
    def test_a_crash_is_followed_by_a_start(self):
        before = self.succeeds('systemctl show -P MainPID pyvorin-edge')
        self.succeeds('systemctl kill -s KILL pyvorin-edge')
        self.succeeds('timeout %d sh -c "until systemctl is-active pyvorin-edge; do sleep 1; done"' % START_SECONDS_MAX)
        self.assertNotEqual(self.succeeds('systemctl show -P MainPID pyvorin-edge'), before)

    @OETestDepends(['pyvorin_edge.PyvorinEdgeTest.test_the_service_runs'])
    def test_a_reload_is_answered(self):
        self.succeeds('systemctl reload pyvorin-edge')
