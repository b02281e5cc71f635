"""Stand-in for `backend.memory_management`: counts what it is asked for."""

calls: list[str] = []


def unload_all_models() -> None:
    calls.append("unload_all_models")


def soft_empty_cache(force: bool = False) -> None:
    calls.append("soft_empty_cache")
