# Stand-in for oe-core's class.
