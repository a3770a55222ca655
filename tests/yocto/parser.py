"""BitBake's own parser, fetcher and shell over the recipes of meta-pyvorin, without oe-core: bitbake.conf and the classes
beside this file stand in for it. The library is that of the package bitbake-setup."""
import os
import subprocess
import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LAYER = ROOT / "meta-pyvorin"

# bitbake-setup comes without the servers that a real build starts.
for name in ("hashserv", "hashserv.client", "prserv", "prserv.serv"):
    sys.modules.setdefault(name, types.ModuleType(name))

import bb  # noqa: E402
import bb.data  # noqa: E402
import bb.data_smart  # noqa: E402
import bb.event  # noqa: E402
import bb.fetch2  # noqa: E402
import bb.parse  # noqa: E402
import bb.siggen  # noqa: E402

# What tells the series apart for a recipe.
SERIES = {
    "scarthgap": {"RUSTVERSION": "1.75%"},
    "wrynose": {"RUSTVERSION": "1.94.1%", "UNPACKDIR": "${WORKDIR}/sources"},
}
# MACHINEOVERRIDES and TARGET_ARCH as meta-raspberrypi and oe-core make them; the machine's own name comes last but for the
# processor, which stands in front. Levels B and C use the real ones.
MACHINES = {
    "raspberrypi4": ("armv7ve:raspberrypi:rpi:raspberrypi4", "arm"),
    "raspberrypi4-64": ("aarch64:armv8a:rpi:raspberrypi4:raspberrypi4-64", "aarch64"),
    "raspberrypi0-2w": ("armv7ve:rpi:raspberrypi3:raspberrypi0-2w", "arm"),
    "raspberrypi0-2w-64": ("aarch64:armv8a:rpi:raspberrypi3:raspberrypi3-64:raspberrypi0-2w-64", "aarch64"),
    "raspberrypi3-64": ("aarch64:armv8a:rpi:raspberrypi3:raspberrypi3-64", "aarch64"),
    "raspberrypi0": ("armv6:rpi:raspberrypi0", "arm"),
    "qemuarm64": ("aarch64:armv8a:qemuall:qemuarm64", "aarch64"),
    "qemux86-64": ("qemuall:qemux86-64", "x86_64"),
}


def configuration(top: Path, series: str, machine: str, lines: str = ""):
    """The data that a recipe is parsed over; `lines` is what stands in local.conf."""
    d = bb.data.init()
    d.setVar("BBPATH", str(HERE))
    d.setVar("TOPDIR", str(top))
    d.setVar("DL_DIR", str(top / "downloads"))
    d.setVar("__bbclasstype", "global")
    d.setVar("LAYERSERIES_CORENAMES", series)
    d.setVar("MACHINE", machine)
    overrides, arch = MACHINES.get(machine, (machine, "aarch64"))
    d.setVar("MACHINEOVERRIDES", overrides)
    d.setVar("TARGET_ARCH", arch)
    for name, value in SERIES[series].items():
        d.setVar(name, value)
    bb.parse.siggen = bb.siggen.init(d)
    if lines:
        local = top / "local.conf"
        local.write_text(lines)
        d = bb.parse.handle(str(local), d, True)
    d = bb.parse.handle(str(HERE / "bitbake.conf"), d, True)
    d.setVar("LAYERDIR", str(LAYER))
    d = bb.parse.handle(str(LAYER / "conf/layer.conf"), d, True)
    d.delVar("LAYERDIR")
    return d


def recipe(name: str, d):
    """The parsed recipe, and why BitBake would skip it, or None."""
    [path] = [*LAYER.glob(f"recipes-*/*/{name}_*.bb"), *LAYER.glob(f"recipes-*/*/{name}.bb")]
    parsed = bb.parse.handle(str(path), d)[""]
    return parsed, parsed.getVar("__SKIPPED", False)


def unpack(d, only: str = "") -> None:
    """Fetches from the download folder alone, checks the sums, unpacks; `only` is how the addresses begin."""
    urls = [url for url in d.getVar("SRC_URI").split() if url.startswith(only)]
    root = Path(d.getVar("UNPACKDIR") or d.getVar("WORKDIR"))
    root.mkdir(parents=True, exist_ok=True)
    fetch = bb.fetch2.Fetch(urls, d)
    fetch.download()
    fetch.unpack(str(root))


def run_shell(d, function: str, tools: Path) -> None:
    """Runs a shell function of a recipe as BitBake writes it, under fakeroot; `tools` comes first in PATH."""
    script = Path(d.getVar("T")) / f"run.{function}"
    script.parent.mkdir(parents=True, exist_ok=True)
    with script.open("w") as f:
        f.write("#!/bin/sh -e\numask 022\n")
        bb.data.emit_func(function, f, d)
        f.write(f"{function}\n")
        if function == "do_install":
            listing = "find . -mindepth 1 \\( -type f -o -path './etc/pyvorin-edge*' \\) -printf '%m %U:%G %P\\n'"
            f.write(f"cd {d.getVar('D')}\n{listing} >{script}.files\n")
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(["fakeroot", "sh", "-e", str(script)], env=environment, capture_output=True, text=True)
    if result.returncode:
        raise AssertionError(f"{function}: {result.stdout}{result.stderr}")


def installed(d) -> list[str]:
    """What do_install put into the image: mode, owner, path, in the order of the paths."""
    names = {"0": "root", GROUP: "pyvorin-edge"}
    lines = []
    for line in Path(d.getVar("T"), "run.do_install.files").read_text().splitlines():
        mode, owner, path = line.split(" ", 2)
        user, group = owner.split(":")
        lines.append(f"{int(mode, 8):04o} {names[user]}:{names[group]} /{path}")
    return sorted(lines, key=lambda line: line.split()[2])


# The group of the agent on the machine that tests, where it does not exist.
GROUP = "4711"
