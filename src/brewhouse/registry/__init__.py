"""The registry's rules: life-cycle states, lineage and the model card."""
