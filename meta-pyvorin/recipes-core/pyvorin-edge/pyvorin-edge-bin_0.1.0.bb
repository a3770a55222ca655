# The agent as the static program that is released, for builds without Rust or with one that is too old.
require pyvorin-edge.inc

LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# One name for what an image asks for, whichever recipe made it.
PROVIDES += "pyvorin-edge"

# Where pyv-edge-agent-VERSION-TARGET lies.
PYVORIN_EDGE_RELEASE ?= "https://github.com/pyvorin/pyvorin-edge/releases/download/v${PV}"
PYVORIN_EDGE_TARGET = "none"
PYVORIN_EDGE_TARGET:aarch64 = "aarch64-unknown-linux-musl"
PYVORIN_EDGE_TARGET:arm = "armv7-unknown-linux-musleabihf"
PYVORIN_EDGE_PROGRAM = "pyv-edge-agent-${PV}-${PYVORIN_EDGE_TARGET}"

SRC_URI += "${PYVORIN_EDGE_RELEASE}/${PYVORIN_EDGE_PROGRAM};name=${TARGET_ARCH};subdir=device"
SRC_URI[aarch64.sha256sum] = "${PYVORIN_EDGE_SHA256_aarch64}"
SRC_URI[arm.sha256sum] = "${PYVORIN_EDGE_SHA256_arm}"

S = "${PYVORIN_EDGE_FILES}"

COMPATIBLE_HOST = "(aarch64|arm)-.*-linux.*"

python () {
    arch = d.getVar('TARGET_ARCH')
    if arch in ('aarch64', 'arm') and not d.getVar('PYVORIN_EDGE_SHA256_' + arch):
        raise bb.parse.SkipRecipe('there is no release of %s yet whose checksum could stand here: build the program with '
            'scripts/build-static, and set PYVORIN_EDGE_RELEASE and PYVORIN_EDGE_SHA256_%s' % (d.getVar('PV'), arch))
}

RPROVIDES:${PN} += "pyvorin-edge (= ${EXTENDPKGV})"
RCONFLICTS:${PN} += "pyvorin-edge"
RREPLACES:${PN} += "pyvorin-edge"

INHIBIT_DEFAULT_DEPS = "1"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
INHIBIT_SYSROOT_STRIP = "1"
# It was stripped when it was made, and nothing in it is linked at run time.
INSANE_SKIP:${PN} += "already-stripped ldflags"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0755 ${PYVORIN_EDGE_FILES}/${PYVORIN_EDGE_PROGRAM} ${D}${bindir}/pyv-edge-agent
    pyvorin_edge_install_device_files
}
