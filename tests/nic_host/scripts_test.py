#!/usr/bin/env python3
"""scripts/nic and scripts/hugepages on hosts made of files, with a thread that does what the kernel does with them; and
systemd's own word on the units in dist/."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NIC = "0000:03:00.0"


class Kernel(threading.Thread):
    """Moves devices between drivers when somebody writes into their files, as sysfs does."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host = host
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.005):
            for device in self.host.devices.iterdir():
                self.serve(device)

    def serve(self, device):
        """What was written to one device's files."""
        driver = device / "driver"
        if driver.exists() and self.taken(driver / "unbind") == device.name:
            driver.unlink()
            shutil.rmtree(device / "net", ignore_errors=True)
        if not driver.exists() and self.host.probe.read_text().strip() == device.name:
            self.host.probe.write_text("")
            override = (device / "driver_override").read_text().strip()
            self.host.give(device.name, override or self.host.kernel_driver)

    @staticmethod
    def taken(file):
        """What is in a file, which is empty then."""
        text = file.read_text().strip()
        if text:
            file.write_text("")
        return text


class Host:
    """A host with one NIC."""

    def __init__(self, folder):
        self.root = pathlib.Path(folder)
        self.devices = self.root / "sys/bus/pci/devices"
        self.probe = self.root / "sys/bus/pci/drivers_probe"
        self.kernel_driver = "ixgbe"
        for driver in ("ixgbe", "vfio-pci", "mlx5_core", "ahci"):
            self.write(f"sys/bus/pci/drivers/{driver}/unbind", "")
        self.write("sys/bus/pci/drivers_probe", "")
        self.device(NIC, "0x020000", "ixgbe")
        (self.root / "sys/kernel/iommu_groups/7/devices").mkdir(parents=True)
        self.join_group(NIC)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def device(self, address, kind, driver):
        """One device on the PCI bus."""
        for file, text in (("class", kind), ("vendor", "0x8086"), ("device", "0x10fb"), ("numa_node", "1")):
            self.write(f"sys/bus/pci/devices/{address}/{file}", text + "\n")
        self.write(f"sys/bus/pci/devices/{address}/driver_override", "\n")
        self.give(address, driver)

    def join_group(self, address):
        """Puts a device into the IOMMU group."""
        (self.devices / address / "iommu_group").symlink_to(self.root / "sys/kernel/iommu_groups/7")
        (self.root / "sys/kernel/iommu_groups/7/devices" / address).symlink_to(self.devices / address)

    def give(self, address, driver):
        """Binds a device; a kernel driver makes an interface of a NIC."""
        link = self.devices / address / "driver"
        if link.is_symlink():
            link.unlink()
        if driver in ("ixgbe", "mlx5_core"):
            self.write(f"sys/bus/pci/devices/{address}/net/eth1/address", "")
            self.write("sys/class/net/eth1/operstate", "up\n")
            self.write("sys/class/net/eth1/speed", "10000\n")
        link.symlink_to(self.root / "sys/bus/pci/drivers" / driver)

    def driver(self, address=NIC):
        return (self.devices / address / "driver").resolve().name

    def run(self, script, *arguments):
        """Exit status, and all that the script wrote."""
        command = [ROOT / "scripts" / script, "--root", self.root, *arguments]
        environment = dict(os.environ, NIC_SECONDS="2")
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=20, check=False)
        return done.returncode, done.stdout + done.stderr


class Test(unittest.TestCase):
    """Each on a host of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.host = Host(folder.name)

    def start_kernel(self):
        kernel = Kernel(self.host)
        kernel.start()
        self.addCleanup(kernel.join)
        self.addCleanup(kernel.done.set)

    def refused(self, words, *arguments):
        """The script must fail, say why, and leave the NIC where it was."""
        before = self.host.driver()
        status, said = self.host.run(*arguments)
        self.assertEqual(status, 1, said)
        self.assertIn(words, said)
        self.assertEqual(self.host.driver(), before)

    def test_there_and_back(self):
        self.start_kernel()
        status, said = self.host.run("nic", "bind", NIC)
        self.assertEqual((status, self.host.driver()), (0, "vfio-pci"), said)
        self.assertIn("was ixgbe, interface eth1", said)
        remembered = self.host.root / "run/unsocket/nic" / NIC
        self.assertEqual(remembered.read_text(), "ixgbe eth1\n")
        # Twice is as good as once, and what is remembered stays.
        self.assertEqual(self.host.run("nic", "bind", NIC)[0], 0)
        self.assertEqual(remembered.read_text(), "ixgbe eth1\n")
        status, said = self.host.run("nic", "unbind", NIC)
        self.assertEqual((status, self.host.driver()), (0, "ixgbe"), said)
        self.assertFalse(remembered.exists())
        self.assertEqual((self.host.devices / NIC / "driver_override").read_text().strip(), "")
        self.assertEqual(self.host.run("nic", "unbind", NIC)[0], 0)

    def test_an_interface_names_its_nic(self):
        self.start_kernel()
        self.assertEqual(self.host.run("nic", "bind", "eth1")[0], 0)
        self.assertEqual(self.host.driver(), "vfio-pci")

    def test_a_nic_that_nobody_remembers_goes_to_the_kernels_choice(self):
        self.host.give(NIC, "vfio-pci")
        self.start_kernel()
        self.assertEqual(self.host.run("nic", "unbind", NIC)[0], 0)
        deadline = time.monotonic() + 5
        while self.host.driver() != "ixgbe" and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(self.host.driver(), "ixgbe")

    def test_the_default_route_protects_its_nic(self):
        header = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"
        self.host.write("proc/net/route", header + "eth1\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\n")
        self.refused("default route", "nic", "bind", NIC)
        self.refused("default route", "nic", "bind", "eth1")
        # Through a bond, and over IPv6.
        self.host.write("proc/net/route", header + "bond0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\n")
        self.host.write("sys/class/net/bond0/lower_eth1/address", "")
        self.refused("default route", "nic", "bind", NIC)
        self.host.write("proc/net/route", header)
        zero = "0" * 32
        self.host.write("proc/net/ipv6_route", f"{zero} 00 {zero} 00 {zero} 00000400 1 0 00450003 eth1\n")
        self.refused("default route", "nic", "bind", NIC)
        self.start_kernel()
        self.assertEqual(self.host.run("nic", "bind", "--force", NIC)[0], 0)

    def test_a_host_route_protects_nothing(self):
        self.host.write("proc/net/route", "Iface\neth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n")
        self.start_kernel()
        self.assertEqual(self.host.run("nic", "bind", NIC)[0], 0)

    def test_without_an_iommu(self):
        (self.host.devices / NIC / "iommu_group").unlink()
        self.refused("intel_iommu=on", "nic", "bind", NIC)

    def test_a_stranger_in_the_group(self):
        self.host.device("0000:03:00.1", "0x010600", "ahci")
        self.host.join_group("0000:03:00.1")
        self.refused("0000:03:00.1", "nic", "bind", NIC)

    def test_a_bifurcated_nic_needs_no_binding(self):
        self.host.give(NIC, "mlx5_core")
        status, said = self.host.run("nic", "bind", NIC)
        self.assertEqual((status, self.host.driver()), (0, "mlx5_core"))
        self.assertIn("nothing to bind", said)

    def test_what_is_no_nic(self):
        self.host.device("0000:04:00.0", "0x010600", "ahci")
        self.refused("no network device", "nic", "bind", "0000:04:00.0")
        self.refused("no PCI device 0000:05:00.0", "nic", "bind", "0000:05:00.0")
        self.refused("there is no NIC eth7", "nic", "bind", "eth7")
        self.refused("which NIC?", "nic", "bind")
        self.refused("unknown option --hard", "nic", "bind", "--hard", NIC)

    def test_a_driver_that_does_not_take_it(self):
        # Nobody plays the kernel.
        self.refused("dmesg", "nic", "bind", NIC)

    def test_a_nic_in_use_is_not_taken_away(self):
        self.host.give(NIC, "vfio-pci")
        (self.host.root / "proc/4711/fd").mkdir(parents=True)
        (self.host.root / "proc/4711/fd/9").symlink_to("/dev/vfio/7")
        self.refused("process 4711", "nic", "unbind", NIC)

    def test_status(self):
        status, said = self.host.run("nic", "status")
        self.assertEqual(status, 0)
        self.assertEqual(said.splitlines()[1].split(), [NIC, "8086:10fb", "ixgbe", "eth1", "up,", "10000", "Mb/s", "1", "7"])
        self.host.give(NIC, "vfio-pci")
        self.assertIn(f"ready: --port dpdk:{NIC}", self.host.run("nic", "status")[1])


class Hugepages(unittest.TestCase):
    """The same for hugepages."""

    ALL = "sys/kernel/mm/hugepages/hugepages-2048kB"
    NODE = "sys/devices/system/node/node1/hugepages/hugepages-1048576kB"
    CONF = "etc/tmpfiles.d/unsocket-hugepages.conf"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.host = Host(folder.name)
        for pool in (self.ALL, self.NODE):
            self.host.write(f"{pool}/nr_hugepages", "0\n")
            self.host.write(f"{pool}/free_hugepages", "0\n")

    def number(self, pool):
        return (self.host.root / pool / "nr_hugepages").read_text()

    def test_now(self):
        self.assertEqual(self.host.run("hugepages", "64")[0], 0)
        self.assertEqual(self.number(self.ALL), "64\n")
        self.assertFalse((self.host.root / self.CONF).exists())

    def test_at_boot_has_one_line_for_each_pool(self):
        for count in ("64", "128"):
            self.assertEqual(self.host.run("hugepages", "--at-boot", count)[0], 0)
        status, said = self.host.run("hugepages", "--at-boot", "--size", "1G", "--node", "1", "2")
        self.assertEqual(status, 0)
        self.assertIn("hugepagesz=1G hugepages=2", said)
        self.assertEqual(self.number(self.NODE), "2\n")
        lines = [f"w /{self.ALL}/nr_hugepages - - - - 128", f"w /{self.NODE}/nr_hugepages - - - - 2"]
        self.assertEqual((self.host.root / self.CONF).read_text().splitlines(), lines)

    def test_what_is_wrong_is_said(self):
        for arguments, words in (
            (("many",), "expected a number"),
            (("--size", "4K", "1"), "expected 2M or 1G"),
            (("--node", "9", "1"), "no NUMA node 9"),
            (("--node", "x", "1"), "number of a NUMA node"),
        ):
            status, said = self.host.run("hugepages", *arguments)
            self.assertEqual(status, 1)
            self.assertIn(words, said)

    def test_table(self):
        self.assertIn("1      1G             0         0", self.host.run("hugepages")[1])


class Units(unittest.TestCase):
    """The units of systemd: no unknown key, value or order of things. They are read, not started."""

    def verified(self, unit, change=lambda text: text):
        """What systemd says of a unit, whose programs are taken to be installed."""
        with tempfile.TemporaryDirectory() as folder:
            for file in (ROOT / "dist").glob("*.service"):
                text = re.sub(r"^(Exec\w+=)/usr/local/\S+", r"\1/bin/true", file.read_text(), flags=re.M)
                (pathlib.Path(folder) / file.name).write_text(change(text) if file.name == unit else text)
            command = ["systemd-analyze", "verify", "--man=no", f"{folder}/{unit}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr

    def test_units_are_sound(self):
        for unit in ("unsocket.service", "unsocket-nic@.service"):
            self.assertEqual(self.verified(unit), (0, ""), unit)

    def test_a_wrong_key_is_found(self):
        said = self.verified("unsocket.service", lambda text: text.replace("Restart=", "Restrat="))[1]
        self.assertIn("Restrat", said)


if __name__ == "__main__":
    unittest.main()
