# Stand-in for oe-core's class.
CARGO_TARGET_SUBDIR = "${TARGET_ARCH}/release"
CARGO_BUILD_FLAGS = "--frozen --release"
