"""
Tests for L{portlisten._each.environment}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._each.environment import Internet, Unix, withoutConnection


class InternetTests(SynchronousTestCase):
    """
    Tests for L{Internet}.
    """

    def test_ipv4(self) -> None:
        """
        IPv4 has the variables of tcpserver and of systemd.
        """
        peer = Internet("192.0.2.1", 80, "192.0.2.7", 40000)
        expected = {
            "PROTO": "TCP",
            "TCPLOCALIP": "192.0.2.1",
            "TCPLOCALPORT": "80",
            "TCPREMOTEIP": "192.0.2.7",
            "TCPREMOTEPORT": "40000",
            "REMOTE_ADDR": "192.0.2.7",
            "REMOTE_PORT": "40000",
        }
        self.assertEqual(peer.variables(), expected)
        self.assertEqual(str(peer), "192.0.2.7:40000")
        mapped = Internet("::ffff:192.0.2.1", 80, "::ffff:192.0.2.7", 40000)
        self.assertEqual(mapped.variables(), expected)
        self.assertEqual(str(mapped), "192.0.2.7:40000")

    def test_ipv6(self) -> None:
        """
        IPv6 has the variables of tcpserver for both, and of systemd.
        """
        peer = Internet("2001:db8::1", 80, "2001:db8::7", 40000)
        self.assertEqual(
            peer.variables(),
            {
                "PROTO": "TCP6",
                "TCPLOCALIP": "2001:db8::1",
                "TCPLOCALPORT": "80",
                "TCPREMOTEIP": "2001:db8::7",
                "TCPREMOTEPORT": "40000",
                "TCP6LOCALIP": "2001:db8::1",
                "TCP6LOCALPORT": "80",
                "TCP6REMOTEIP": "2001:db8::7",
                "TCP6REMOTEPORT": "40000",
                "REMOTE_ADDR": "2001:db8::7",
                "REMOTE_PORT": "40000",
            },
        )
        self.assertEqual(str(peer), "[2001:db8::7]:40000")

    def test_linkLocal(self) -> None:
        """
        The interface of a link-local address has a variable of its own.
        """
        made = Internet("fe80::1%eth0", 80, "fe80::7%eth0", 40000).variables()
        self.assertEqual(made["TCP6INTERFACE"], "eth0")
        for name in ("TCPREMOTEIP", "TCP6REMOTEIP", "REMOTE_ADDR"):
            self.assertEqual(made[name], "fe80::7")
        self.assertEqual(made["TCP6LOCALIP"], "fe80::1")


class UnixTests(SynchronousTestCase):
    """
    Tests for L{Unix}.
    """

    def test_unix(self) -> None:
        """
        The client is a process of a user.
        """
        peer = Unix("/run/port", "", 12, 1000, 100)
        self.assertEqual(
            peer.variables(),
            {
                "PROTO": "UNIX",
                "UNIXLOCALPATH": "/run/port",
                "UNIXREMOTEPATH": "",
                "UNIXREMOTEPID": "12",
                "UNIXREMOTEEUID": "1000",
                "UNIXREMOTEEGID": "100",
            },
        )
        self.assertEqual(str(peer), "process 12 of user 1000")

    def test_names(self) -> None:
        """
        An abstract name is written with an @, since a variable has no zeros.
        """
        made = Unix("\0por\0t", "/tmp/client", 12, 1000, 100).variables()
        self.assertEqual(made["UNIXLOCALPATH"], "@por@t")
        self.assertEqual(made["UNIXREMOTEPATH"], "/tmp/client")
        self.assertEqual(made["REMOTE_ADDR"], "/tmp/client")


class WithoutConnectionTests(SynchronousTestCase):
    """
    Tests for L{withoutConnection}.
    """

    def test_removed(self) -> None:
        """
        What another superserver says of its connection is left out, and nothing else.
        """
        told = (
            "PROTO TCPLOCALIP TCPLOCALHOST TCPREMOTEINFO TCPINTERFACE TCP6REMOTEHOST"
            " TCP6INTERFACE UNIXLOCALPATH UNIXREMOTEPID SSLREMOTEIP IPCREMOTEPATH"
            " REMOTE_ADDR REMOTE_PORT REMOTE_HOST LISTEN_FDS LISTEN_FDNAMES LISTEN_PID"
            " LISTEN_PIDFDID SO_COOKIE"
        )
        kept = (
            "PATH HOME PROTOCOL MYPROTO TCP UNIX SSL_CERT_FILE REMOTE LISTEN NOTPROTO"
            " TCPWRAPPERS PORTLISTEN_LABEL"
        )
        environment = dict.fromkeys((told + " " + kept).split(), "value")
        self.assertEqual(
            withoutConnection(environment), dict.fromkeys(kept.split(), "value")
        )
