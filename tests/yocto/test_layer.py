"""Level A of scripts/test-yocto: the layer without oe-core."""
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

import jsonschema
import kas
import yaml

import parser
from parser import LAYER, MACHINES, ROOT, SERIES, bb

AGENT = "recipes-core/pyvorin-edge"
SUMS = f'PYVORIN_EDGE_SHA256_aarch64 = "{64 * "1"}"\nPYVORIN_EDGE_SHA256_arm = "{64 * "1"}"\n'
NEW_RUST = 'RUSTVERSION = "1.91.0%"\n'


class LayerCase(unittest.TestCase):
    def setUp(self):
        self.top = Path(tempfile.mkdtemp(prefix="yocto-", dir=os.environ["YOCTO_WORK"]))
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        (self.top / "downloads").mkdir()
        tools = self.top / "tools"
        tools.mkdir()
        (tools / "chown").write_text(
            f'#!/bin/sh\n[ "$1" = root:pyvorin-edge ] || exit 1\nshift\nexec /bin/chown 0:{parser.GROUP} "$@"\n'
        )
        (tools / "chown").chmod(0o755)
        self.tools = tools

    def parse(self, name, series="wrynose", machine="raspberrypi4-64", lines=""):
        return parser.recipe(name, parser.configuration(self.top, series, machine, lines))

    def install(self, name, series, machine, lines=""):
        d, skipped = self.parse(name, series, machine, lines)
        self.assertIsNone(skipped)
        parser.unpack(d, "file://")
        files = Path(d.getVar("PYVORIN_EDGE_FILES"))
        if name == "pyvorin-edge-bin":
            program = files / d.getVar("PYVORIN_EDGE_PROGRAM")
        else:
            program = Path(d.expand("${B}/target/${CARGO_TARGET_SUBDIR}/pyv-edge-agent"))
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("the program\n")
        parser.run_shell(d, "do_install", self.tools)
        return d


class Recipes(LayerCase):
    def test_every_recipe_is_parsed_for_every_machine_of_every_series(self):
        for series in SERIES:
            for machine in MACHINES:
                for name in ("pyvorin-edge", "pyvorin-edge-bin", "pyvorin-edge-board", "packagegroup-pyvorin-gateway"):
                    with self.subTest(name, series=series, machine=machine):
                        d, _ = self.parse(name, series, machine, SUMS + NEW_RUST)
                        for key in ("SUMMARY", "DESCRIPTION", "HOMEPAGE", "LICENSE", "SECTION"):
                            self.assertTrue(d.getVar(key), key)
                        self.assertEqual(d.getVar("REQUIRED_DISTRO_FEATURES"), "systemd")

    def test_the_agent_is_refused_for_armv6_alone(self):
        for name in ("pyvorin-edge", "pyvorin-edge-bin"):
            for machine, (_, arch) in MACHINES.items():
                with self.subTest(name, machine=machine):
                    d, _ = self.parse(name, "wrynose", machine, SUMS)
                    host = re.compile(d.getVar("COMPATIBLE_HOST") or ".*")
                    fits = bool(host.match(d.getVar("HOST_SYS")))
                    wanted = machine != "raspberrypi0" and (name == "pyvorin-edge" or arch != "x86_64")
                    self.assertEqual(fits, wanted)

    def test_a_rust_that_is_too_old_is_said_with_what_to_add(self):
        _, skipped = self.parse("pyvorin-edge", "scarthgap")
        self.assertEqual(
            skipped,
            "it needs Rust 1.91 or later and this build has 1.75: add the layer meta-lts-mixins, branch scarthgap/rust, "
            "or take pyvorin-edge-bin",
        )
        for series, lines in (("scarthgap", NEW_RUST), ("wrynose", "")):
            self.assertIsNone(self.parse("pyvorin-edge", series, lines=lines)[1])

    def test_a_version_without_a_release_is_said_with_what_to_set(self):
        empty = 'PYVORIN_EDGE_SHA256_aarch64 = ""\nPYVORIN_EDGE_SHA256_arm = ""\n'
        for machine, name in (("raspberrypi4-64", "aarch64"), ("raspberrypi4", "arm")):
            self.assertIn(f"set PYVORIN_EDGE_RELEASE and PYVORIN_EDGE_SHA256_{name}",
                          self.parse("pyvorin-edge-bin", machine=machine, lines=empty)[1])

    def test_both_recipes_answer_to_one_name(self):
        d, _ = self.parse("pyvorin-edge-bin", lines=SUMS)
        self.assertIn("pyvorin-edge", d.getVar("PROVIDES").split())
        for key in ("RPROVIDES", "RCONFLICTS", "RREPLACES"):
            self.assertIn("pyvorin-edge", d.getVar(f"{key}:pyvorin-edge-bin").split())

    def test_the_source_is_preferred_until_the_build_says_otherwise(self):
        wanted = 'PREFERRED_RPROVIDER_pyvorin-edge = "pyvorin-edge-bin"\n'
        self.assertIn(wanted, (LAYER / "README.md").read_text())
        for lines, name in (("", "pyvorin-edge"), (wanted, "pyvorin-edge-bin")):
            d = parser.configuration(self.top, "wrynose", "raspberrypi4-64", lines)
            self.assertEqual(d.getVar("PREFERRED_RPROVIDER_pyvorin-edge"), name)

    def test_the_source_is_one_commit_of_this_repository(self):
        d, _ = self.parse("pyvorin-edge")
        self.assertRegex(d.getVar("SRCREV"), "^[0-9a-f]{40}$")
        self.assertNotIn("git+", (ROOT / "Cargo.lock").read_text())

    def test_the_cargo_class_does_not_take_the_source_for_a_patched_crate(self):
        # It does so with every repository that has a name and a destsuffix, and cargo ends with an error.
        d, _ = self.parse("pyvorin-edge")
        urls = [url for url in d.getVar("SRC_URI").split() if url.startswith("git://")]
        self.assertEqual(len(urls), 1)
        self.assertIn(";destsuffix=", urls[0])
        self.assertNotIn(";name=", urls[0])


class Board(LayerCase):
    LIMITS = {
        "raspberrypi4": "512M", "raspberrypi4-64": "512M", "raspberrypi0-2w": "256M", "raspberrypi0-2w-64": "256M",
        "raspberrypi3-64": "", "qemuarm64": "", "qemux86-64": "",
    }

    def drop_in(self, series, machine, lines=""):
        d, skipped = self.parse("pyvorin-edge-board", series, machine, lines)
        self.assertIsNone(skipped)
        parser.unpack(d)
        Path(d.getVar("D")).mkdir(parents=True, exist_ok=True)
        parser.run_shell(d, "do_install", self.tools)
        folder = Path(d.expand("${D}${systemd_system_unitdir}"))
        found = {path.parent.name: path.read_text() for path in folder.glob("*/0-board.conf")}
        shutil.rmtree(d.getVar("D"))
        return d, found

    def test_each_board_has_its_limit(self):
        for series in SERIES:
            for machine, limit in self.LIMITS.items():
                with self.subTest(machine, series=series):
                    d, found = self.drop_in(series, machine)
                    self.assertEqual(d.getVar("PACKAGE_ARCH"), machine.replace("-", "_"))
                    units = {"pyvorin-edge.service.d", "pyvorin-edge@.service.d"} if limit else set()
                    self.assertEqual(set(found), units)
                    for text in found.values():
                        self.assertTrue(text.endswith(f"[Service]\nMemoryMax={limit}\n"), text)

    def test_what_the_build_sets_wins(self):
        for lines in ('PYVORIN_EDGE_MEMORY_MAX = "1G"\n', 'PYVORIN_EDGE_MEMORY_MAX:raspberrypi4-64 = "1G"\n'):
            _, found = self.drop_in("wrynose", "raspberrypi4-64", lines)
            self.assertIn("MemoryMax=1G\n", found["pyvorin-edge.service.d"])

    def test_a_limit_that_systemd_would_not_take_ends_the_build(self):
        with self.assertRaises(BaseException):
            self.parse("pyvorin-edge-board", lines='PYVORIN_EDGE_MEMORY_MAX = "half"\n')


class Installed(LayerCase):
    def test_both_recipes_install_the_files_of_the_list(self):
        expected = [line for line in (ROOT / "tests/packaging/files.txt").read_text().splitlines() if line[0] != "#"]
        for name in ("pyvorin-edge", "pyvorin-edge-bin"):
            for series in SERIES:
                for machine in ("raspberrypi4", "raspberrypi4-64"):
                    with self.subTest(name, series=series, machine=machine):
                        d = self.install(name, series, machine, SUMS + NEW_RUST)
                        self.assertEqual(parser.installed(d), expected)
                        shutil.rmtree(d.getVar("TMPDIR"))

    def test_the_preset_says_what_the_build_says(self):
        preset = "${D}/usr/lib/systemd/system-preset/80-pyvorin-edge.preset"
        for lines, word in (("", "enable"), ('SYSTEMD_AUTO_ENABLE = "disable"\n', "disable"),
                            ('SYSTEMD_AUTO_ENABLE:pn-pyvorin-edge = "disable"\n', "disable")):
            with self.subTest(lines):
                d = self.install("pyvorin-edge", "wrynose", "raspberrypi4-64", lines)
                text = Path(d.expand(preset)).read_text().splitlines()
                self.assertIn(f"{word} pyvorin-edge.service", text)
                self.assertIn("disable pyvorin-edge.socket", text)

    def test_the_administrators_file_is_a_conffile(self):
        for name in ("pyvorin-edge", "pyvorin-edge-bin"):
            d, _ = self.parse(name, lines=SUMS)
            self.assertEqual(d.getVar(f"CONFFILES:{name}"), "/etc/pyvorin-edge/config.toml")

    def test_every_file_beside_the_program_is_in_the_package(self):
        d, _ = self.parse("pyvorin-edge-bin", lines=SUMS)
        packaged = d.getVar("FILES:pyvorin-edge-bin").split() + ["/usr/bin", "/etc", "/usr/share/doc"]
        for line in (ROOT / "tests/packaging/files.txt").read_text().splitlines():
            if line[0] != "#":
                path = line.split()[2]
                self.assertTrue(any(path == p or path.startswith(p + "/") for p in packaged), path)


class Fetched(LayerCase):
    def test_the_crates_are_fetched_checked_and_enough_for_an_offline_build(self):
        for crate in Path(os.environ["YOCTO_CRATES"]).glob("*.crate"):
            (self.top / "downloads" / crate.name).symlink_to(crate)
        d, _ = self.parse("pyvorin-edge")
        parser.unpack(d, "crate://")
        home = Path(d.getVar("UNPACKDIR")) / "cargo_home"
        self.assertEqual(len(list((home / "bitbake").iterdir())), d.getVar("SRC_URI").count("crate://"))
        (home / "config.toml").write_text(
            f'[source.bitbake]\ndirectory = "{home}/bitbake"\n[source.crates-io]\nreplace-with = "bitbake"\n'
        )
        sources = self.top / "sources"
        sources.mkdir()
        subprocess.run(f"git -C {ROOT} ls-files -z -- Cargo.toml Cargo.lock src benches examples tests/it .cargo | "
                       f"(cd {ROOT} && cpio -0pdm --quiet {sources})", shell=True, check=True)
        result = subprocess.run(
            ["cargo", "metadata", "--frozen", "--config", str(sources / ".cargo/config.toml"), "--format-version=1",
             "--manifest-path", str(sources / "Cargo.toml")],
            cwd=self.top, capture_output=True, text=True,
            env=dict(os.environ, CARGO_HOME=str(home), RUSTUP_HOME=os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup"))),
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        places = {p["source"] for p in json.loads(result.stdout)["packages"]}
        self.assertEqual(places, {None, "registry+https://github.com/rust-lang/crates.io-index"})

    def test_a_crate_that_is_not_what_it_was_is_refused(self):
        d, _ = self.parse("pyvorin-edge")
        url = next(url for url in d.getVar("SRC_URI").split() if url.startswith("crate://"))
        name, version = url.split("/")[-2:]
        (self.top / "downloads" / f"{name}-{version}.crate").write_bytes(b"something else")
        with self.assertRaises(bb.fetch2.BBFetchException):
            parser.unpack(d, url)

    def test_a_program_that_is_not_the_released_one_is_refused(self):
        import hashlib
        content = b"the released program"
        right = hashlib.sha256(content).hexdigest()
        for wanted, accepted in ((right, True), (64 * "1", False)):
            d, _ = self.parse("pyvorin-edge-bin", lines=f'PYVORIN_EDGE_SHA256_aarch64 = "{wanted}"\n')
            (self.top / "downloads" / d.getVar("PYVORIN_EDGE_PROGRAM")).write_bytes(content)
            if accepted:
                parser.unpack(d, "https://")
                path = Path(d.getVar("PYVORIN_EDGE_FILES"), d.getVar("PYVORIN_EDGE_PROGRAM"))
                self.assertEqual(path.read_bytes(), content)
            else:
                shutil.rmtree(self.top / "downloads")
                (self.top / "downloads").mkdir()
                (self.top / "downloads" / d.getVar("PYVORIN_EDGE_PROGRAM")).write_bytes(content)
                with self.assertRaises(bb.fetch2.BBFetchException):
                    parser.unpack(d, "https://")


class Agreement(LayerCase):
    def test_the_recipes_agree_with_cargo_toml(self):
        manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        for name in ("pyvorin-edge", "pyvorin-edge-bin"):
            self.assertTrue((LAYER / AGENT / f"{name}_{manifest['version']}.bb").exists(), name)
        d, _ = self.parse("pyvorin-edge")
        self.assertEqual(d.getVar("PYVORIN_EDGE_RUST_MIN"), manifest["rust-version"])

    def test_the_licence_field_names_all_that_may_be_linked(self):
        allowed = tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"]
        d, _ = self.parse("pyvorin-edge")
        self.assertEqual(sorted(d.getVar("LICENSE").split(" & ")), sorted(allowed))

    def test_the_layer_may_be_used_with_both_series_and_no_other(self):
        d = parser.configuration(self.top, "wrynose", "qemuarm64")
        self.assertEqual(d.getVar("LAYERSERIES_COMPAT_pyvorin").split(), sorted(SERIES))
        self.assertEqual(d.getVar("LAYERDEPENDS_pyvorin"), "core")

    def test_the_ptest_and_the_runtime_case_are_whole(self):
        subprocess.run(["sh", "-n", str(LAYER / AGENT / "files/run-ptest")], check=True)
        case = LAYER / "lib/oeqa/runtime/cases/pyvorin_edge.py"
        compile(case.read_text(), str(case), "exec")


class Documents(LayerCase):
    README = (LAYER / "README.md").read_text()
    CHAPTER = re.search(r"^## In a Yocto image\n.*?(?=^## )", (ROOT / "README.md").read_text(), re.S | re.M)[0]

    def blocks(self, language):
        return re.findall(rf"```{language}\n(.*?)```", self.README + self.CHAPTER, re.S)

    def test_every_configuration_in_the_readme_is_parsed(self):
        blocks = self.blocks("conf")
        self.assertGreater(len(blocks), 5)
        for text in blocks:
            with self.subTest(text):
                parser.configuration(self.top, "wrynose", "qemuarm64", text)
                for name in re.findall(r"^(PYVORIN_EDGE_\w+)", text, re.M):
                    self.assertTrue(any(name in path.read_text() for path in (LAYER / AGENT).glob("*.*")), name)

    def test_every_command_in_the_readme_names_what_is_there(self):
        for line in "".join(self.blocks("sh")).splitlines():
            for path in re.findall(r"meta-pyvorin/\S+", line):
                self.assertTrue((ROOT / path).exists(), line)
        for script in re.findall(r"`(scripts/[\w-]+)", self.README + self.CHAPTER):
            self.assertTrue(os.access(ROOT / script, os.X_OK), script)

    def test_the_kas_files_have_the_form_that_kas_wants_and_the_settings_of_the_readme(self):
        schema = json.loads(Path(kas.__file__).with_name("schema-kas.json").read_text())
        common = yaml.safe_load((LAYER / "kas/gateway.yml").read_text())
        jsonschema.validate(common, schema)
        lines = "".join(common["local_conf_header"].values())
        for wanted in ('INIT_MANAGER = "systemd"', 'CMDLINE:append:pn-rpi-cmdline = " cgroup_enable=memory"'):
            self.assertIn(wanted, lines)
            self.assertIn(wanted, self.README)
        for series in SERIES:
            one = yaml.safe_load((LAYER / f"kas/gateway-{series}.yml").read_text())
            jsonschema.validate(one, schema)
            self.assertEqual(one["header"]["includes"], ["gateway.yml"])
            self.assertEqual(one["repos"]["meta-raspberrypi"]["branch"], series)
        parser.configuration(self.top, "wrynose", "raspberrypi4-64", lines)


if __name__ == "__main__":
    unittest.main()
