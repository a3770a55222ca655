# What makes an image a gateway.
SUMMARY = "The Pyvorin Edge Agent, set up for this board"
DESCRIPTION = "The agent, its memory limit for the board, and the certificates and time zones that it works with."
HOMEPAGE = "https://pyvorin.com"
SECTION = "net"
LICENSE = "Apache-2.0"

# Before the class, which else makes it one for all machines: the limit is the board's.
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit features_check packagegroup

REQUIRED_DISTRO_FEATURES = "systemd"

# With the Rust of scarthgap there is no agent, which is said to whoever asks for it; `bitbake world` asks for nothing.
EXCLUDE_FROM_WORLD = "1"

RDEPENDS:${PN} = "\
    ca-certificates \
    pyvorin-edge \
    pyvorin-edge-board \
    tzdata-core \
"
