"""Tasks and suites: what the ranker is asked, as versioned YAML."""
