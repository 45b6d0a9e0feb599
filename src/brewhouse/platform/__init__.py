"""One adapter per vendor SDK: the only modules that import those SDKs."""
