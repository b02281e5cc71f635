"""Stand-in for `backend.args`."""


class dynamic_args:
    """What changes while the web UI runs."""

    online_lora: bool = False
    nunchaku: bool = False
