"""The command line: `brewhouse`."""
