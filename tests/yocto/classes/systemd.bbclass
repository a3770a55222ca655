# Stand-in for oe-core's class.
SYSTEMD_AUTO_ENABLE ??= "enable"
