# The agent compiled from source, offline: every crate is fetched by BitBake, with its checksum.
require pyvorin-edge.inc
require pyvorin-edge-crates.inc

LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

PYVORIN_EDGE_GIT ?= "git://github.com/pyvorin/pyvorin-edge.git;protocol=https;branch=main"
# Without a name: the cargo class takes what has a name and a destsuffix for a patched crate, and cargo refuses that.
SRC_URI += "${PYVORIN_EDGE_GIT};destsuffix=${BP}"
SRCREV = "${PYVORIN_EDGE_COMMIT}"

inherit cargo cargo-update-recipe-crates

# As in Cargo.toml.
PYVORIN_EDGE_RUST_MIN = "1.91"

python () {
    found = (d.getVar('PREFERRED_VERSION_rust-native') or d.getVar('RUSTVERSION') or '').replace('%', '')
    needed = d.getVar('PYVORIN_EDGE_RUST_MIN')
    if found and bb.utils.vercmp_string_op(found, needed, '<'):
        raise bb.parse.SkipRecipe('it needs Rust %s or later and this build has %s: add the layer meta-lts-mixins, '
            'branch %s/rust, or take pyvorin-edge-bin' % (needed, found, d.getVar('LAYERSERIES_CORENAMES') or 'scarthgap'))
}

# The class installs every executable that it finds. The file sets how the C libraries are built; cargo runs outside
# of the sources and would not look for it there.
CARGO_BUILD_FLAGS:append = " --bin pyv-edge-agent --config ${S}/.cargo/config.toml"
# The C of crates lies there; package_qa refuses paths of the build in what gdb reads.
CFLAGS += "-ffile-prefix-map=${CARGO_HOME}=${TARGET_DBGSRC_DIR}/cargo_home"
# Stripping is BitBake's, else there is nothing left for the -dbg package.
export CARGO_PROFILE_RELEASE_STRIP = "none"

do_install() {
    install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/pyv-edge-agent ${D}${bindir}/pyv-edge-agent
    pyvorin_edge_install_device_files
}
