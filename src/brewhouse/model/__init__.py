"""The decoder: sizes, building, loading, and the module that scores prompt trees."""
