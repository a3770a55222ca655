# How much memory the agent may take on this machine. A recipe of its own, so that the agent's package stays one for all
# machines of an architecture.
SUMMARY = "Memory limit of the Pyvorin Edge Agent for this board"
DESCRIPTION = "A drop-in for pyvorin-edge.service that sets MemoryMax= for the board that the image is for."
HOMEPAGE = "https://pyvorin.com"
SECTION = "net"
CVE_PRODUCT = "pyvorin:pyvorin-edge"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

SRC_URI = "file://0-board.conf;subdir=device"
# scarthgap has no UNPACKDIR.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/device"

inherit features_check

REQUIRED_DISTRO_FEATURES = "systemd"
PACKAGE_ARCH = "${MACHINE_ARCH}"
INHIBIT_DEFAULT_DEPS = "1"

# Half of what the board has, 512M at most. raspberrypi0-2w-64 also answers to raspberrypi3-64 and raspberrypi0-2w to
# raspberrypi3, hence no value for those.
PYVORIN_EDGE_MEMORY_MAX_BOARD = ""
PYVORIN_EDGE_MEMORY_MAX_BOARD:raspberrypi4 = "512M"
PYVORIN_EDGE_MEMORY_MAX_BOARD:raspberrypi4-64 = "512M"
PYVORIN_EDGE_MEMORY_MAX_BOARD:raspberrypi0-2w = "256M"
PYVORIN_EDGE_MEMORY_MAX_BOARD:raspberrypi0-2w-64 = "256M"
# For other machines, and for those who know better: in the configuration of the machine, the distribution or the build.
# Empty: the package is empty too, and the device finds its limit when it boots.
PYVORIN_EDGE_MEMORY_MAX ?= "${PYVORIN_EDGE_MEMORY_MAX_BOARD}"

python () {
    import re
    value = d.getVar('PYVORIN_EDGE_MEMORY_MAX')
    if value and not re.fullmatch(r'[0-9]+[KMGT]?|[0-9]+%|infinity', value):
        bb.fatal('PYVORIN_EDGE_MEMORY_MAX: "%s" is not a limit; give for example 512M, 25%% or infinity' % value)
}

do_configure[noexec] = "1"
do_compile[noexec] = "1"

# The name is the one that the agent's generator looks for, and comes before any that an administrator would choose.
do_install() {
    [ -n "${PYVORIN_EDGE_MEMORY_MAX}" ] || return 0
    for unit in pyvorin-edge.service pyvorin-edge@.service; do
        drop_in=${D}${systemd_system_unitdir}/$unit.d/0-board.conf
        install -D -m 0644 ${S}/0-board.conf $drop_in
        sed -i 's/@MEMORY_MAX@/${PYVORIN_EDGE_MEMORY_MAX}/' $drop_in
    done
}

FILES:${PN} += "${systemd_system_unitdir}"
ALLOW_EMPTY:${PN} = "1"
