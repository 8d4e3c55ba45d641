"""Links of every MTU, several addresses, networks behind routers, and paths that narrow on the way."""

import contextlib
import re
import sys

from harness import HOST_ADDRESSES, SERVER_IP, TESTS, Failure, Namespace, Program, Server, url

FAMILIES = ("ipv4", "ipv6")
LINK_CLIENT = [sys.executable, TESTS / "inside" / "link_client.py"]
# The server knows the clients' networks by static routes only; the second network has none.
ROUTES = "port.routes=[{to='10.90.0.0/24',via='10.73.0.1'},{to='fd90::/64',via='fd73::1'}]"


def suite(report, binary):
    """Every case, each group with its own network."""
    mtus(report, binary)
    addresses(report, binary)
    routed(report, binary, mtu=1500)
    routed(report, binary, mtu=1300)


def mtus(report, binary):
    """The kernel as client on links of the smallest and largest MTU: 1 byte to 16 MiB, MSS looked at."""
    for mtu, families in ((576, ("ipv4",)), (1280, FAMILIES), (9000, FAMILIES)):
        of = {"ipv4": "10.73.0.{}/24", "ipv6": "fd73::{}/64"}
        ours, host = (",".join(of[family].format(end) for family in families) for end in (2, 1))
        with (
            Namespace() as namespace,
            Server(binary, namespace, "--mtu", mtu, addresses=ours, host_addresses=host) as server,
        ):
            server.start()
            for family in families:
                command = [*LINK_CLIENT, url(family), mtu, mtu]
                report.run_program(f"mtu-{mtu}/{family}", namespace, command, 240)
            report.run(f"mtu-{mtu}", "clean-stop", server.stop)


def addresses(report, binary):
    """Several addresses of each family: all of them serve, and no other one answers."""
    ours = ["10.73.0.2", "10.73.0.3", "10.74.0.2", "fd73::2", "fd73::3", "fd74::2"]
    prefix = {True: 64, False: 24}
    listed = ",".join(f"{address}/{prefix[':' in address]}" for address in ours)
    host = f"{HOST_ADDRESSES},10.74.0.1/24,fd74::1/64"
    with Namespace() as namespace, Server(binary, namespace, addresses=listed, host_addresses=host) as server:
        server.start()
        for address in ours:
            report.run("addresses", f"serves-{address}", serves, namespace, address)
        for address in ("10.73.0.4", "fd73::4"):
            report.run("addresses", f"silent-{address}", is_silent, namespace, address)
        report.run("addresses", "clean-stop", server.stop)


def serves(namespace, address):
    """A WebSocket to the address echoes, and it answers pings."""
    target = f"ws://[{address}]/ws" if ":" in address else f"ws://{address}/ws"
    command = [sys.executable, TESTS / "inside" / "hold_client.py", target, 3]
    with Program(namespace, command, f"hold {address}") as program:
        if (opened := program.next(30)) != {"open": 3}:
            program.ended()
            raise Failure(f"expected 3 open connections, the client says {opened}")
    namespace.run("ping", "-n", "-q", "-c", "2", "-i", "0.1", "-W", "2", address)


def is_silent(namespace, address):
    """Nobody has the address: no connection, no answer to a ping."""
    script = (
        "import socket, sys\n"
        "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "with socket.socket(family) as client:\n"
        "    client.settimeout(1.5)\n"
        "    try: client.connect((sys.argv[1], 80))\n"
        "    except OSError as error: print(error or 'timed out')\n"
        "    else: sys.exit('it answered')\n"
    )
    return namespace.run(sys.executable, "-c", script, address).strip()


@contextlib.contextmanager
def behind_routers(binary, mtu):
    """The server's TAP device in a router, a second router behind it over a link of `mtu` bytes, and a client behind
    that one on a link of 1500 bytes: neither end's own link tells how much the path carries."""
    with Namespace() as near, Namespace() as far, Namespace() as client:
        near.forward()
        far.forward()
        with Server(binary, near, "--set", ROUTES) as server:
            server.start()
            near.join(far, ("far", "near"), (["10.80.0.1/24", "fd80::1/64"], ["10.80.0.2/24", "fd80::2/64"]), mtu)
            far.join(client, ("client", "far"), (["10.90.0.1/24", "fd90::1/64"], ["10.90.0.2/24", "fd90::2/64"]))
            # A network that the server has no route to.
            for address, ours in (("10.91.0.1/24", "10.91.0.2/24"), ("fd91::1/64", "fd91::2/64")):
                nodad = ["nodad"] if ":" in address else []
                far.ip("addr", "add", address, "dev", "client", *nodad)
                client.ip("addr", "add", ours, "dev", "far", *nodad)
            for namespace, to, via in (
                (near, "10.90.0.0/23", "10.80.0.2"),
                (near, "fd90::/64", "fd80::2"),
                (near, "fd91::/64", "fd80::2"),
                (far, "10.73.0.0/24", "10.80.0.1"),
                (far, "fd73::/64", "fd80::1"),
            ):
                namespace.ip("route", "add", to, "via", via)
            # From its address in the network that the server knows, unless it says otherwise.
            for via, source in (("10.90.0.1", "10.90.0.2"), ("fd90::1", "fd90::2")):
                client.ip("route", "add", "default", "via", via, "src", source)
            yield server, near, client


def routed(report, binary, mtu):
    """A client two routers away, in a network that only a static route leads to."""
    name = f"routed-{mtu}"
    with behind_routers(binary, mtu) as (server, near, client):
        for family in FAMILIES:
            command = [*LINK_CLIENT, url(family), mtu, 1500]
            report.run_program(f"{name}/{family}", client, command, 300)
            report.run(f"{name}/{family}", "no-route-no-answer", has_no_way_back, client, family)
            if mtu < 1500:
                report.run(f"{name}/{family}", "the-router-said-too-big", router_complained, near, family)
        report.run(name, "clean-stop", server.stop)


def has_no_way_back(client, family):
    """A SYN from a network without a route reaches the server, and its answer has nowhere to go."""
    script = (
        "import socket, sys\n"
        "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "with socket.socket(family) as client:\n"
        "    client.settimeout(1.5)\n"
        "    client.bind((sys.argv[2], 0))\n"
        "    try: client.connect((sys.argv[1], 80))\n"
        "    except TimeoutError: pass\n"
        "    else: sys.exit('it answered')\n"
    )
    source = {"ipv4": "10.91.0.2", "ipv6": "fd91::2"}[family]
    client.run(sys.executable, "-c", script, SERVER_IP[family], source)


def router_complained(router, family):
    """The path was narrower than a segment of the server's, and the router said so: nothing else made them smaller."""
    if family == "ipv4":
        lines = re.findall(r"^Icmp: (.+)$", router.run("cat", "/proc/net/snmp"), re.M)
        counters = dict(zip(lines[0].split(), lines[1].split()))
        sent = int(counters["OutDestUnreachs"])
    else:
        sent = int(re.search(r"^Icmp6OutPktTooBigs\s+(\d+)", router.run("cat", "/proc/net/snmp6"), re.M).group(1))
    if not sent:
        raise Failure("the router sent no report: the path was never too narrow")
    return f"{sent} reports"
