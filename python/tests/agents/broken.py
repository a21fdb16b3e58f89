import a_module_that_is_missing  # type: ignore[import-not-found]  # what the test is about

__all__ = ["a_module_that_is_missing"]
